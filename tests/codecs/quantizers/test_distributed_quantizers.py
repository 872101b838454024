"""Two gloo processes with different data must hold the same codebooks to the bit."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from zoo.codecs.quantizers import ResidualVectorQuantizer, VectorQuantizer, residual_vq

STEPS = 50


def data(rank: int, step: int) -> torch.Tensor:
    """Two clusters a rank that wander, so that codes die; batch sizes differ between the ranks."""
    source = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(2 + rank, 8, 20, generator=source) + 10 * rank + step


def train(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    restarting = residual_vq(8, 16, levels=3, dropout=0.5, kmeans_vectors=150, decay=0.8, restart_threshold=0.5).train()
    restarted = torch.zeros(3)
    for step in range(STEPS):
        z = data(rank, step)
        # Now and then rank 1 brings no vector at all, or none for the upper levels.
        n = {10: 0, 20: 1}.get(step) if rank == 1 else None
        restarted += restarting(z, n).usage.restarted
    averaging = ResidualVectorQuantizer(still_levels()).train()
    for _ in range(STEPS):
        averaging(data(rank, 0))
    torch.save((restarting.state_dict(), averaging.state_dict(), restarted), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def still_levels() -> list[VectorQuantizer]:
    return [VectorQuantizer(8, 16, decay=0.9, restart_threshold=0.0, seed=level) for level in range(2)]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(train, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_ranks_hold_bit_identical_codebooks_after_fifty_steps_with_restarts(states):
    (first, _, restarted), (second, _, restarted_too) = states
    assert (restarted >= 10).all() and torch.equal(restarted, restarted_too)
    assert any("fitted" in name and value for name, value in first.items())
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
def test_ranks_together_learn_what_one_process_learns_from_all_the_data(states):
    alone = ResidualVectorQuantizer(still_levels()).train()
    for _ in range(STEPS):
        alone(torch.cat([data(0, 0), data(1, 0)]))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(states[0][1][name], value, rtol=1e-4, atol=1e-4)
