"""What decoding remembers is allocated before the first step, and does not grow with the output."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.sampling import Law, stream
from zoo.decoders.transformer import TransformerConfig

ROWS, STEPS = 8, 400
SHAPE = TransformerConfig(width=64, layers=4, heads=1)
STATE_BYTES = 2 * 4 * SHAPE.layers * ROWS * STEPS * SHAPE.width  # keys and values in float32: 6.6 MB


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_the_state_is_allocated_once_and_the_process_grows_no_more():
    torch.manual_seed(0)
    model = AutoregressiveDecoder(AutoregressiveConfig((16,), SHAPE)).eval()
    states, make = [], model.init_state
    model.init_state = lambda *arguments: states.append(make(*arguments)) or states[-1]
    addresses, sizes = set(), []
    for round, _ in enumerate(stream(model, torch.zeros(ROWS, 1, 1, dtype=torch.int64), STEPS, Law(temperature=0))):
        (state,) = states
        addresses.add(tuple(run.data_ptr() for run in state._memory.runs))
        if round in (STEPS // 4, STEPS - 1):  # by the first, all that is allocated once has been
            sizes.append(resident())
    assert len(addresses) == 1
    assert state.capacity == 1 + STEPS
    assert sum(run.nbytes for run in state._memory.runs) == STATE_BYTES * (1 + STEPS) // STEPS
    # Keys and values of the three quarters between, in tensors that grow, would be 5 MB.
    assert sizes[1] - sizes[0] < STATE_BYTES / 4
