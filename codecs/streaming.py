"""Exact work in chunks for codecs of finite reach: each chunk brings along as much context as the network can see.

Offline is one long chunk: a state starts empty, is passed in and comes back changed, and the codec holds none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """State of a chunked pass over a stream of `unit`-sized inputs.

    Attributes:
        scales: Gain of each row, or None.
        buffer: Inputs from the oldest that is still needed on; None before the first chunk.
        done: Units of `buffer` whose outputs were given out already.
    """

    scales: Tensor | None = None
    buffer: Tensor | None = None
    done: int = 0


def advance(
    window: Window, chunk: Tensor, unit: int, past: int, future: int, final: bool, run: Callable[[Tensor], Tensor]
) -> tuple[Tensor | None, Window]:
    """Run `run` over the window extended by `chunk` and give out the units that no later input can change.

    Args:
        chunk: Next inputs, along the last axis.
        unit: Inputs that make one unit (a codec's hop when it encodes, 1 when it decodes).
        past, future: Units before and behind a unit that its output depends on.
        final: No input follows: all that is left is given out.
        run: Maps inputs of m units (the last may be partial) to outputs whose last axis is a multiple of m.

    Returns:
        The outputs of the newly finished units (None if there are none) and the next state.
    """
    buffer = chunk if window.buffer is None else torch.cat([window.buffer, chunk], dim=-1)
    units = -(-buffer.shape[-1] // unit) if final else buffer.shape[-1] // unit - future
    if units <= window.done:
        return None, replace(window, buffer=buffer)
    outputs = run(buffer if final else buffer[..., : (units + future) * unit])
    size = outputs.shape[-1] // (units if final else units + future)
    fresh = outputs[..., window.done * size : units * size]
    drop = max(0, units - past)
    return fresh, replace(window, buffer=buffer[..., drop * unit :], done=units - drop)
