"""The first levels see a group of channels each; the levels behind see what all of them left over."""

import pytest
import torch

from zoo.codecs.quantizers import MaskedVectorQuantizer, masked_channel_residual_vq
from zoo.codecs.quantizers.kmeans import nearest

DIM, SIZE, LEVELS = 10, 32, 5  # three groups of 3, 3 and 4 channels
GROUPS = [(0, 3), (3, 6), (6, 10)]


def latents(seed: int = 0, frames: int = 60) -> torch.Tensor:
    return torch.randn(2, DIM, frames, generator=torch.Generator().manual_seed(seed))


def trained(**options):
    quantizer = masked_channel_residual_vq(DIM, SIZE, LEVELS, **options).train()
    for seed in range(5):
        quantizer(latents(seed))
    return quantizer.eval()


def test_codes_are_those_of_zeroed_channels_and_then_of_the_residual():
    quantizer, z = trained(), latents(9)
    x = z.movedim(1, -1).reshape(-1, DIM)
    total, expected = torch.zeros_like(x), []
    for level, codebook in enumerate(quantizer.levels):
        if level < len(GROUPS):  # of the latents themselves, with all other channels zeroed
            start, stop = GROUPS[level]
            seen = torch.zeros_like(x)
            seen[:, start:stop] = x[:, start:stop]
        else:
            seen = x - total
        codes = torch.cdist(seen.double(), codebook.embedding.double()).argmin(dim=1)
        total = total + codebook.embedding[codes]
        expected.append(codes.view(2, -1))
    output = quantizer(z)
    assert torch.equal(output.codes, torch.stack(expected, dim=1))
    assert torch.equal(quantizer.encode(z), output.codes)
    torch.testing.assert_close(output.z_q, total.view(2, -1, DIM).movedim(-1, 1))


@pytest.mark.parametrize("level", range(3))
def test_a_group_is_blind_to_other_channels(level):
    quantizer, z = trained(), latents(9)
    start, stop = GROUPS[level]
    changed = latents(10)
    changed[:, start:stop] = z[:, start:stop]
    assert torch.equal(quantizer.encode(changed)[:, level], quantizer.encode(z)[:, level])
    only = quantizer.levels[level].decode(quantizer.encode(z)[:, level : level + 1])
    outside = [channel for channel in range(DIM) if not start <= channel < stop]
    assert (only[:, outside] == 0).all() and (only[:, start:stop] != 0).any()


@pytest.mark.parametrize("options", [{"restart_threshold": 0.0}, {"restart_threshold": 0.9}, {"kmeans_vectors": 100}])
def test_start_averages_restarts_and_kmeans_leave_other_channels_of_the_codewords_at_zero(options):
    quantizer = trained(**options)
    for level, (start, stop) in zip(quantizer.levels, GROUPS, strict=False):
        inside = torch.zeros(DIM, dtype=torch.bool)
        inside[start:stop] = True
        assert (level.embedding[:, ~inside] == 0).all() and (level.embedding[:, inside] != 0).any()


def test_kmeans_clusters_the_channels_that_a_level_sees():
    """Channels 0..2 form 4 clusters in the shadow of loud noise elsewhere."""
    source = torch.Generator().manual_seed(0)
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    chosen = torch.randint(4, (400,), generator=source)
    x = torch.cat([centres[chosen], 100 * torch.randn(400, DIM - 3, generator=source)], dim=1)
    quantizer = masked_channel_residual_vq(DIM, 16, LEVELS, kmeans_vectors=400).train()
    quantizer(x.T[None])
    codewords = quantizer.levels[0].embedding[:, :3]
    assert torch.cdist(centres, codewords[nearest(centres, codewords)]).diagonal().max() < 1e-4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: masked_channel_residual_vq(DIM, SIZE, levels=2), "groups must lie in 1..2, .* got 3"),
        (lambda: MaskedVectorQuantizer(DIM, SIZE, (4, 11)), r"within 0..10, got \(4, 11\)"),
    ],
    ids=["more groups than levels", "channels that do not exist"],
)
def test_impossible_groups_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
