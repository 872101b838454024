"""k-means, and the start of codebooks from the first training vectors by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.quantizers.distributed import copy_from_first_rank, gather_rows
from zoo.codecs.quantizers.draws import generator

SLICE = 1 << 24  # distances held at once: 64 MiB of float32
CACHED = 1 << 20  # on a processor: 4 MiB, which its cache holds until they are compared; a fifth faster than 64 MiB
BLOCK = 64  # distances that are first reduced to their minimum; fewer or more are slower


@torch.no_grad()
def nearest(x: Float[Tensor, "vector dim"], codewords: Float[Tensor, "size dim"]) -> Int[Tensor, "vector"]:
    """Index of the nearest codeword of each vector, the lowest on a tie; one matrix product per slice of vectors."""
    squares = codewords.square().sum(dim=1)
    return in_slices(lambda part: first_minimum(torch.addmm(squares, part, codewords.T, alpha=-2)), x, len(codewords))


def in_slices(
    choose: Callable[[Float[Tensor, "part dim"]], Int[Tensor, "part"]], x: Float[Tensor, "vector dim"], size: int
) -> Int[Tensor, "vector"]:
    """What `choose` says of so many vectors at a time that `size` numbers for each of them stay within bounds."""
    parts = [choose(part) for part in x.split(max(1, held_at_once(x.device) // size))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def held_at_once(device: torch.device) -> int:
    """How many distances to work out before they are compared."""
    return CACHED if device.type == "cpu" else SLICE


def first_minimum(x: Float[Tensor, "row column"]) -> Int[Tensor, "row"]:
    """`x.argmin(dim=1)`, and the lowest index on a tie.

    On a processor PyTorch's `argmin` looks at one number after the other, `amin` at many at a time. So long rows are
    searched for the first of the blocks with the least minimum, and then this block alone.
    """
    rows, columns = x.shape
    if x.device.type != "cpu" or columns % BLOCK or columns < 4 * BLOCK:
        return x.argmin(dim=1)
    blocks = x.view(rows, columns // BLOCK, BLOCK)  # no -1: there may be no row
    best = blocks.amin(dim=2).argmin(dim=1)
    return best * BLOCK + blocks[torch.arange(rows), best].argmin(dim=1)


def cluster_sums(
    x: Float[Tensor, "vector dim"], codes: Int[Tensor, "vector"], size: int
) -> tuple[Float[Tensor, "size dim"], Float[Tensor, "size"]]:
    """Sum and number of the vectors of each code."""
    sums = x.new_zeros(size, x.shape[1]).index_add_(0, codes, x)
    return sums, torch.bincount(codes, minlength=size).to(x.dtype)


@torch.no_grad()
def kmeans(
    x: Float[Tensor, "vector dim"], size: int, source: torch.Generator, iterations: int = 10
) -> tuple[Float[Tensor, "size dim"], Float[Tensor, "size"]]:
    """Centres and the share of the vectors that each has, by Lloyd's iterations from random vectors.

    A cluster that runs empty moves onto a random vector.
    """
    centres = x[torch.randperm(len(x), generator=source)[:size].to(x.device)]
    for _ in range(iterations):
        sums, counts = cluster_sums(x, nearest(x, centres), size)
        spare = x[torch.randint(len(x), (size,), generator=source).to(x.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), spare)
    _, counts = cluster_sums(x, nearest(x, centres), size)
    return centres, counts / len(x)


class Startable(Protocol):
    """A codebook that can start from given codewords."""

    size: int

    def start_from(self, codewords: Tensor, counts: Tensor) -> None: ...

    def visible(self, x: Tensor) -> Tensor: ...

    def nearest(self, x: Tensor) -> Tensor: ...

    def lookup(self, codes: Tensor) -> Tensor: ...


class KMeansStart(nn.Module):
    """Gathers the vectors of successive forward passes, then fits a residual stack of codebooks on them, once.

    The vectors gathered so far are a buffer, so that a training stopped meanwhile resumes as if it had not been; it
    has no rows once the codebooks are fitted. All ranks hold the vectors of all ranks.

    Args:
        dim: Size of a vector.
        vectors: How many vectors to wait for.
        seed: Of the random start.
    """

    gathered: Tensor
    fitted: Tensor

    def __init__(self, dim: int, vectors: int, seed: int):
        super().__init__()
        self.vectors, self.seed = vectors, seed
        self.register_buffer("gathered", torch.empty(0, dim))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def ready(self, x: Float[Tensor, "vector dim"], levels: Sequence[Startable]) -> bool:
        """Take in `x` if vectors are still wanted, fit `levels` when there are enough; True if they are fitted."""
        if self.fitted:
            return True
        fresh = gather_rows(x)
        self.gathered = torch.cat([self.gathered, fresh])
        if len(self.gathered) < self.vectors:
            return False
        residual, source = self.gathered, generator(self.seed, 0)
        for level in levels:
            codewords, shares = kmeans(level.visible(residual), level.size, source)
            copy_from_first_rank(codewords, shares)
            level.start_from(codewords, shares * len(fresh))  # weighs as much as one batch, like an average would
            residual = residual - level.lookup(level.nearest(residual))
        self.gathered = x.new_empty(0, x.shape[1])
        self.fitted.fill_(True)
        return True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "gathered")
        if saved is not None:
            self.gathered = self.gathered.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
