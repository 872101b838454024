"""Levels that share a codebook learn together, once a step, and are stored once."""

import torch

from zoo.codecs.quantizers import SharedResidualVectorQuantizer, VectorQuantizer, residual_vq

DIM, SIZE, LEVELS = 6, 16, 3


def vectors(seed: int) -> torch.Tensor:
    return torch.randn(2, DIM, 40, generator=torch.Generator().manual_seed(seed))


def inputs_of_the_levels(quantizer: SharedResidualVectorQuantizer, z: torch.Tensor) -> torch.Tensor:
    """What all levels are given to quantize, one behind the other."""
    codes = quantizer.encode(z)
    return torch.cat([z, *(z - quantizer.decode(codes[:, :n]) for n in range(1, LEVELS))], dim=-1)


def test_a_step_teaches_the_codebook_what_one_quantizer_learns_from_the_vectors_of_all_levels():
    # No restarts: their random choice is tested elsewhere. Counts start above zero so that averages are averages.
    shared = SharedResidualVectorQuantizer(DIM, SIZE, LEVELS, restart_threshold=0.0).train()
    alone = VectorQuantizer(DIM, SIZE, restart_threshold=0.0).train()
    alone.load_state_dict(shared.levels[0].state_dict())
    for seed in range(3):
        z = vectors(seed)
        everything = inputs_of_the_levels(shared, z)
        alone(everything)
        shared(z)
        torch.testing.assert_close(shared.levels[0].embedding, alone.embedding)
        torch.testing.assert_close(shared.levels[0].counts, alone.counts)
        assert shared.levels[0].steps == alone.steps == seed + 1


def test_dead_codes_restart_on_vectors_of_any_level():
    shared = SharedResidualVectorQuantizer(DIM, SIZE, LEVELS).train()
    with torch.no_grad():
        shared.levels[0].embedding[4:] += 100  # out of reach
    z = vectors(0)
    everything = inputs_of_the_levels(shared, z).movedim(1, -1).reshape(-1, DIM)
    restarted = shared(z).usage.restarted
    assert (restarted == SIZE - 4).all()
    distances = torch.cdist(shared.levels[0].embedding[4:], everything, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distances.amin(dim=1) < 1e-5).all()
    assert (distances.argmin(dim=1) >= len(everything) // LEVELS).any()  # what a later level was given


def test_the_codebook_is_stored_once():
    shared, separate = SharedResidualVectorQuantizer(DIM, SIZE, LEVELS), residual_vq(DIM, SIZE, LEVELS)
    assert sum("embedding" in name for name in shared.state_dict()) == 1
    assert sum("embedding" in name for name in separate.state_dict()) == LEVELS
    assert shared.codebook_sizes == separate.codebook_sizes


def test_further_levels_lower_the_error_although_the_codes_are_the_same():
    shared = SharedResidualVectorQuantizer(DIM, 64, LEVELS).train()
    for seed in range(60):
        shared(vectors(seed % 5))
    errors = [float((shared.eval()(vectors(0), n).z_q - vectors(0)).square().mean()) for n in range(1, LEVELS + 1)]
    assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2]
