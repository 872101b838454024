"""Beam search over residual levels: exact where it sees all, never worse than one level after the other, repeatable."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from zoo.codecs.quantizers import (
    FactorizedVectorQuantizer,
    GroupedResidualVectorQuantizer,
    LookupFreeQuantizer,
    MultiScaleVectorQuantizer,
    ProjectedQuantizer,
    ResidualScalarQuantizer,
    ResidualVectorQuantizer,
    ScalarQuantizer,
    SharedResidualVectorQuantizer,
    SplitResidualVectorQuantizer,
    VectorQuantizer,
    kmeans,
    masked_channel_residual_vq,
    residual_vq,
    search,
)

DIM = 6


def latents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stack(levels: int = 4, size: int = 32, dim: int = DIM, seed: int = 0) -> ResidualVectorQuantizer:
    """Levels of ever smaller random codewords, so that each has something to do."""
    quantizer = residual_vq(dim, size, levels, seed=seed)
    for index, level in enumerate(quantizer.levels):
        level.start_from(level.embedding * 0.7**index, torch.ones(size))
    return quantizer.eval()


KINDS = {
    "residual": stack,
    "residual of factorized": lambda: ResidualVectorQuantizer(
        [FactorizedVectorQuantizer(DIM, 16, code_dim=3) for _ in range(3)]
    ),
    "residual of lookup-free": lambda: ResidualVectorQuantizer(
        [LookupFreeQuantizer(DIM, scale=0.6**index) for index in range(3)]
    ),
    "residual, shared": lambda: SharedResidualVectorQuantizer(DIM, 32, 4),
    "residual, masked": lambda: masked_channel_residual_vq(DIM, 16, 4, groups=3),
    "residual scalar": lambda: ResidualScalarQuantizer([3, 4, 3, 2, 2, 3], depth=3),
    "residual scalar, projected": lambda: ProjectedQuantizer(ResidualScalarQuantizer([5, 5, 4], depth=3), DIM),
    "grouped": lambda: GroupedResidualVectorQuantizer([stack(3, dim=4), stack(3, 16, dim=2, seed=1)]),
}


@pytest.fixture(params=KINDS)
def quantizer(request):
    torch.manual_seed(0)
    return KINDS[request.param]().eval()


def every_sum(quantizer: ResidualVectorQuantizer, n: int) -> tuple[Tensor, Tensor]:
    """All codes of the first `n` levels in order, and what they decode to."""
    codes = torch.tensor(list(product(*(range(size) for size in quantizer.codebook_sizes[:n]))))
    return codes, quantizer.decode(codes[:, :, None])[..., 0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_beam_as_wide_as_all_codes_finds_the_nearest_sum_of_codewords(n):
    quantizer, z = stack(3, 5, dim=2), latents(50, 2, 4)
    codes, sums = every_sum(quantizer, n)
    distances = (z.movedim(1, -1)[:, :, None].double() - sums.double()).square().sum(-1)
    found = quantizer.encode(z, n, beam=5**n)
    assert torch.equal(found.movedim(1, -1), codes[distances.argmin(-1)])
    assert n == 1 or not torch.equal(found, quantizer.encode(z, n))  # one level after the other misses some


@pytest.mark.parametrize("beam", [2, 3, 9, 27])
def test_a_narrow_beam_keeps_what_a_plain_search_keeps(beam):
    """The search written down naively, on whole numbers, whose many ties the order of codes settles."""
    source = torch.Generator().manual_seed(2)
    quantizer = residual_vq(2, 9, 3).eval()
    for level in quantizer.levels:
        level.start_from(torch.randint(-2, 3, (9, 2), generator=source).float(), torch.ones(9))
    z = torch.randint(-4, 5, (60, 2, 1), generator=source).float()
    tables = [level.embedding for level in quantizer.levels]
    paths = quantizer.paths(z, beam=beam)
    greedy = quantizer.paths(z)
    for row, vector in enumerate(z[:, :, 0]):
        kept = [((), vector)]
        for k, table in enumerate(tables, 1):
            grown = [((*path, code), rest - table[code]) for path, rest in kept for code in range(9)]
            kept = sorted(grown, key=lambda entry: (float(entry[1].square().sum()), entry[0]))[:beam]
            best, rest = kept[0]
            if greedy.errors[row, k, 0] < rest.square().sum():
                best = tuple(greedy.codes[k][row, :, 0].tolist())
            assert tuple(paths.codes[k][row, :, 0].tolist()) == best


@pytest.mark.parametrize("shape", [(3, 1, 40), (3, 5, 40), (3, 5, 7), (2, 4, 3), (1, 2, 4)])
@pytest.mark.parametrize("values", [3, 1000])
def test_the_smallest_places_are_those_of_a_stable_sort(shape, values):
    numbers = torch.randint(values, shape, generator=torch.Generator().manual_seed(1)).float()
    for count in (1, 2, 4, 7, 8, 30):
        wanted = numbers.flatten(1).sort(dim=1, stable=True).indices[:, :count].sort(dim=1).values
        assert torch.equal(search.smallest(numbers, count), wanted)


@pytest.mark.parametrize("beam", [2, 4, 16])
def test_no_error_is_above_that_of_one_level_after_the_other(quantizer, beam):
    z = latents(4, DIM, 50)
    greedy, found = quantizer.paths(z), quantizer.paths(z, beam=beam)
    assert (found.errors <= greedy.errors).all()
    grids = any(isinstance(part, ScalarQuantizer | LookupFreeQuantizer) for part in quantizer.modules())
    if not grids:  # of nested grids, one after the other gives the nearest sum
        assert found.errors[:, -1].mean() < 0.999 * greedy.errors[:, -1].mean()


@pytest.mark.parametrize("beam", [1, 8])
def test_errors_are_those_of_the_decoded_codes(quantizer, beam):
    z = latents(2, DIM, 3, 5)
    paths = quantizer.paths(z, beam=beam)
    inner, target = quantizer, z
    if isinstance(quantizer, ProjectedQuantizer):  # compares where its codewords are
        inner, target = quantizer.inner, quantizer._enter(z)
    if isinstance(inner, ResidualScalarQuantizer):
        target = inner._squeeze(target)
    torch.testing.assert_close(paths.errors[:, 0], target.square().sum(dim=1))
    for k in range(1, len(quantizer.codebook_sizes) + 1):
        wanted = (target - inner.decode(paths.codes[k])).square().sum(dim=1)
        torch.testing.assert_close(paths.errors[:, k], wanted, rtol=1e-4, atol=1e-6)


def test_a_beam_of_one_gives_the_codes_of_one_level_after_the_other(quantizer):
    z = latents(2, DIM, 30)
    paths = quantizer.paths(z, beam=1)
    for n in range(1, len(quantizer.codebook_sizes) + 1):
        assert torch.equal(paths.codes[n], quantizer.encode(z, n))


def test_fewer_codebooks_have_paths_of_their_own(quantizer):
    z = latents(2, DIM, 30)
    whole = quantizer.paths(z, beam=8)
    for n in range(1, len(quantizer.codebook_sizes) + 1):
        fewer = quantizer.paths(z, n, beam=8)
        assert torch.equal(fewer.errors, whole.errors[:, : n + 1])
        assert all(torch.equal(a, b) for a, b in zip(fewer.codes, whole.codes[: n + 1], strict=True))


def test_codes_found_by_a_beam_depend_on_their_latent_alone(quantizer, monkeypatch):
    z = latents(5, DIM, 13)
    whole = quantizer.paths(z, beam=6).codes[-1]
    assert torch.equal(torch.cat([quantizer.paths(row[None], beam=6).codes[-1] for row in z]), whole)
    cells = [quantizer.paths(z[..., i : i + 1], beam=6).codes[-1] for i in range(z.shape[-1])]
    assert torch.equal(torch.cat(cells, dim=2), whole)
    monkeypatch.setattr(kmeans, "CACHED", 6 * 32 * 9)  # nine vectors at once
    assert torch.equal(quantizer.paths(z, beam=6).codes[-1], whole)
    assert torch.equal(quantizer.train().paths(z, beam=6).codes[-1], whole)


def test_no_more_distances_are_held_at_once_than_allowed(monkeypatch):
    sizes, measure = [], search.squared_distances
    monkeypatch.setattr(search, "squared_distances", lambda *pair: sizes.append(found := measure(*pair)) or found)
    monkeypatch.setattr(kmeans, "CACHED", 20000)
    stack().encode(latents(3, DIM, 200), beam=16)
    assert 10000 < max(found.numel() for found in sizes) <= 20000


def test_no_latents_have_no_codes(quantizer):
    paths = quantizer.paths(latents(2, DIM, 0), beam=4)
    assert paths.codes[-1].shape == (2, len(quantizer.codebook_sizes), 0)


def test_groups_search_by_themselves():
    first, second = stack(3, dim=4), stack(3, 16, dim=2, seed=1)
    z = latents(2, DIM, 20)
    grouped = GroupedResidualVectorQuantizer([first, second])
    codes = grouped.encode(z, 5, beam=8)
    assert torch.equal(codes[:, 0::2], first.encode(z[:, :4], 3, beam=8))
    assert torch.equal(codes[:, 1::2], second.encode(z[:, 4:], 2, beam=8))
    assert torch.equal(grouped.paths(z, 5, beam=8).codes[-1], codes)


def test_each_cell_takes_the_codes_of_its_depth():
    quantizer, z = stack(), latents(1, DIM, 5)
    paths = quantizer.paths(z, beam=8)
    depth = torch.tensor([[0, 1, 2, 4, 3]])
    codes = paths.at(depth)
    for cell, n in enumerate(depth[0].tolist()):
        assert torch.equal(codes[0, :n, cell], paths.codes[n][0, :, cell])
        assert (codes[0, n:, cell] == -1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: stack().encode(z, beam=0), "beam must be 1 .* or more, got 0"),
        (lambda z: stack().encode(z, 9, beam=4), r"n must lie in 1\.\.4, got 9"),
        (lambda z: VectorQuantizer(DIM, 8).paths(z), "VectorQuantizer is no residual quantizer"),
        (
            lambda z: ProjectedQuantizer(ScalarQuantizer([5, 5]), DIM).paths(z, beam=2),
            "ScalarQuantizer is no residual quantizer",
        ),
        (
            lambda z: SplitResidualVectorQuantizer(VectorQuantizer(4, 8), stack(3, dim=4), DIM).paths(z, beam=2),
            "SplitResidualVectorQuantizer is no residual quantizer: .* use beam=1",
        ),
        (
            lambda z: MultiScaleVectorQuantizer(DIM, 8, scales=(1, 2)).paths(z, beam=2),
            "MultiScaleVectorQuantizer is no residual quantizer: .* use beam=1",
        ),
        (
            lambda z: ResidualVectorQuantizer([LookupFreeQuantizer(DIM * 4)] * 2).encode(z.repeat(1, 4, 1), beam=2),
            "at most 1048576, got 16777216: use beam=1",
        ),
    ],
    ids=["no beam", "too many levels", "one codebook", "projected", "split", "multi-scale", "too many codes"],
)
def test_impossible_searches_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(latents(1, DIM, 3))
