"""How a grid of codes becomes the steps of a decoder, and back.

For T frames (or H x W cells), K codebooks and groups of G frames; `docs/layouts.png` shows them. A grid without cells
has no steps, `begin` adds one, and `end` is one more frame.

| layout | used for | steps | forward passes in turn |
|---|---|---|---|
| `Parallel` | text and 1-D image tokens (one codebook), frames whose codes are independent | T | T |
| `Raster` | pictures, row by row, with or without a token at the end of each row | HW + H or HW | HW + H or HW |
| `Flat` | AudioLM: one code a step | TK | TK |
| `Delay` | MusicGen: codebook k comes k steps later | T + K - 1 | T + K - 1 |
| `StackDelay` | Stack-and-Delay: the same, through frames in an interleaved order | T + K - 1 | T + K - 1 |
| `FrameDepth` | RQ-transformer, Moshi: a small transformer goes through the codes of a step | T + delay | T + delay |
| `Grouped` | G frames a step | T/G | T/G |
| `CoarseFirst` | VALL-E, VALL-E 2: codebook 0 step by step, then each other codebook at once | KT/G | T/G + K - 1 |
| `NextScale` | VAR: all cells of a scale at once | cells of all scales | scales |
"""

from zoo.decoders.layouts.base import Layout, Special, Table
from zoo.decoders.layouts.frames import Delay, Flat, FrameDepth, Grouped, Parallel, Raster, StackDelay
from zoo.decoders.layouts.staged import CoarseFirst, NextScale

__all__ = [
    "CoarseFirst",
    "Delay",
    "Flat",
    "FrameDepth",
    "Grouped",
    "Layout",
    "NextScale",
    "Parallel",
    "Raster",
    "Special",
    "StackDelay",
    "Table",
]
