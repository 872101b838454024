"""Better codes for a residual stack than one level after the other finds: a search that keeps several sums alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.codecs.quantizers.base import Paths
from zoo.codecs.quantizers.kmeans import held_at_once
from zoo.codecs.quantizers.levels import Level, first_codebooks, flatten

LARGEST = 1 << 20  # codewords of a level that are listed at most
FEWEST = 8  # products of fewer vectors take other kernels, whose sums are rounded otherwise

Step = tuple[Int[Tensor, "vector k"], Float[Tensor, "vector"]]


@torch.no_grad()
def search_levels(
    levels: Sequence[Level], z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1
) -> Paths:
    """Codes of the first 1, 2, ... `n` levels for every vector, and their errors.

    After each level the `beam` sums of codewords nearest to a vector are kept, whatever their codes (Babenko and
    Lempitsky 2014, "Additive Quantization for Extreme Vector Compression"); of equally near ones those whose codes come
    first in order. The greedy codes compete at the end, so that no error is above theirs but for float32 rounding.

    With `beam` 1 all codes are greedy, and those of `k` levels are the first `k` of more. With a wider beam they are
    not: each number of levels has codes of its own.

    Raises:
        ValueError: `n` or `beam` out of range, or a codebook too large to list.
    """
    n = first_codebooks(n, len(levels))
    check_beam(beam)
    used = levels[:n]
    with torch.autocast(z.device.type, enabled=False):
        x = flatten(z, levels[0].dim)
        steps = list(greedy(used, x))
        if beam > 1:
            steps = [better(*pair) for pair in zip(steps, beam_search(used, x, beam), strict=True)]
    shape = (z.shape[0], *z.shape[2:])
    errors = [x.square().sum(dim=1)] + [error for _, error in steps]
    codes = [x.new_empty(len(x), 0, dtype=torch.int64)] + [codes for codes, _ in steps]
    return Paths(
        [part.view(*shape, part.shape[1]).movedim(-1, 1) for part in codes],
        torch.stack([error.view(shape) for error in errors], dim=1),
    )


def check_beam(beam: int) -> None:
    """Raise ValueError for what is no width of a beam."""
    if beam < 1:
        raise ValueError(f"beam must be 1 (one level after the other) or more, got {beam}")


def greedy(levels: Sequence[Level], x: Float[Tensor, "vector dim"]) -> Iterator[Step]:
    """Codes and error after each level when each takes what is nearest to what the ones before it left over."""
    codes = x.new_empty(len(x), len(levels), dtype=torch.int64)
    for index, level in enumerate(levels):
        codes[:, index] = level.nearest(x)
        x = x - level.lookup(codes[:, index])
        yield codes[:, : index + 1], x.square().sum(dim=1)


def better(first: Step, second: Step) -> Step:
    """Of two codes of each vector those of lower error; the second ones if they are equal."""
    wins = first[1] < second[1]
    return torch.where(wins[:, None], first[0], second[0]), torch.where(wins, first[1], second[1])


def beam_search(levels: Sequence[Level], x: Float[Tensor, "vector dim"], beam: int) -> list[Step]:
    """The best codes and their error after each level, searched in slices of bounded memory."""
    largest = max(level.size for level in levels)
    if largest > LARGEST:
        raise ValueError(f"a beam compares all codes of a level, at most {LARGEST}, got {largest}: use beam=1")
    tables = [level.lookup(torch.arange(level.size, device=x.device)) for level in levels]
    vectors = max(FEWEST, held_at_once(x.device) // (beam * largest))
    parts = [list(beam_steps(tables, part, beam)) for part in x.split(vectors)]
    return [tuple(torch.cat(column) for column in zip(*step, strict=True)) for step in zip(*parts, strict=True)]


def beam_steps(tables: list[Float[Tensor, "size dim"]], x: Float[Tensor, "vector dim"], beam: int) -> Iterator[Step]:
    """The same for one slice. What is kept of a vector is in the order of its codes, so that order settles ties."""
    count = len(x)
    rest = pad(x, (0, 0, 0, max(0, FEWEST - count)))[:, None]  # what each kept sum leaves over: [vector, kept, dim]
    codes = rest.new_empty(len(rest), 1, 0, dtype=torch.int64)  # [vector, kept, level]
    for codewords in tables:
        chosen = smallest(squared_distances(rest, codewords), beam)
        parent, code = chosen // len(codewords), chosen % len(codewords)
        rest = rest.gather(1, parent[..., None].expand(-1, -1, rest.shape[2])) - codewords[code]
        codes = torch.cat([codes.gather(1, parent[..., None].expand(-1, -1, codes.shape[2])), code[..., None]], dim=2)
        errors = rest.square().sum(dim=2)
        best = errors.argmin(dim=1)
        rows = torch.arange(len(rest), device=x.device)
        yield codes[rows, best][:count], errors[rows, best][:count]


def squared_distances(
    rest: Float[Tensor, "vector kept dim"], codewords: Float[Tensor, "size dim"]
) -> Float[Tensor, "vector kept size"]:
    """`|r|^2 - 2 r e + |e|^2` by one matrix product, which two more columns let do the sums, too."""
    ones = codewords.new_ones(len(codewords), 1)
    right = torch.cat([-2 * codewords, ones, codewords.square().sum(dim=1, keepdim=True)], dim=1)
    left = torch.cat([rest, rest.square().sum(dim=2, keepdim=True), torch.ones_like(rest[..., :1])], dim=2)
    return (left.flatten(0, 1) @ right.T).view(*rest.shape[:2], -1)


def smallest(values: Float[Tensor, "vector parent code"], count: int) -> Int[Tensor, "vector count"]:
    """Places of the `count` smallest of each vector's values, in order of place; of equal ones the first.

    With many codes, the parents' best of each code come first: the smallest values are among `count` codes.
    """
    vectors, parents, size = values.shape
    flat = values.flatten(1)
    if parents * size <= count:
        return torch.arange(parents * size, device=values.device).expand(vectors, -1)
    if size <= count or parents == 1:
        chosen, tied = partition(flat, count)
    else:
        columns, tied = partition(values.amin(dim=1), count)
        columns = columns.sort(dim=1).values
        chosen, tied_later = partition(values.gather(2, columns[:, None].expand(-1, parents, -1)).flatten(1), count)
        tied = tied | tied_later
        chosen = chosen // count * size + columns.gather(1, chosen % count)
    if tied.any():  # which of the equal ones were taken is chance
        chosen[tied] = flat[tied].sort(dim=1, stable=True).indices[:, :count]
    return chosen.sort(dim=1).values


def partition(values: Float[Tensor, "vector place"], count: int) -> tuple[Int[Tensor, "vector count"], Tensor]:
    """Places of the `count` smallest values, and whether one of the others equals one of them."""
    found = values.topk(count + 1, dim=1, largest=False)
    return found.indices[:, :count], found.values[:, count] == found.values[:, count - 1]
