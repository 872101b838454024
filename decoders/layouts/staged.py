"""Layouts with forward passes that decode many steps at once: the finer codebooks, or all cells of a scale."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.layouts.base import Layout, Shape, Table
from zoo.decoders.layouts.frames import FrameGroups, in_groups, unravel


@dataclass(frozen=True)
class CoarseFirst(FrameGroups):
    """The first codebook frame by frame, then each other codebook in one pass: TK steps in T + K - 1 passes.

    Wang et al., "Neural Codec Language Models are Zero-Shot Text to Speech Synthesizers" (arXiv 2301.02111), VALL-E;
    with `group` G that of VALL-E 2 (arXiv 2406.05370): each step holds the codes of G frames, KT/G steps in T/G + K - 1
    passes, T/G rounded up. Slots of the other codebooks hold padding. Positions are codebook and group.

    Attributes:
        group: G, frames of a step.
    """

    _: KW_ONLY
    group: int = 1

    def table(self, shape: Shape) -> Table:
        codebooks, frames = len(self.sizes), in_groups(shape[0], self.group)
        groups = len(frames)
        positions = unravel((codebooks, groups))
        codebook, group = positions.unbind(1)
        own = codebook[:, None] == torch.tensor(self.slots)
        cells = frames.repeat_interleave(codebooks, 1)[group].where(own, -1)
        return Table(cells, positions, blocks=torch.where(codebook > 0, groups + codebook - 1, group))


@dataclass(frozen=True)
class NextScale(Layout):
    """Ever finer maps of codes, each in one pass: as many steps as codes of a codebook, as many passes as scales.

    Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction" (arXiv
    2404.02905). Codes are `[B, Q, n]`: scale by scale from coarse to fine, each row by row. The cells of a scale are
    independent given all coarser ones. Positions are scale, row and column.

    Attributes:
        scales: Rows and columns of each scale.
    """

    _: KW_ONLY
    scales: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or min(map(min, self.scales)) < 1:
            raise ValueError(f"scales {self.scales} are not rows and columns of one or more maps")
        if self.end:
            raise ValueError("pictures don't decide upon their size: next-scale has no end token")

    @property
    def axes(self) -> int:
        return 1

    def table(self, shape: Shape) -> Table:
        counts = [prod(scale) for scale in self.scales]
        if shape[0] != sum(counts):
            raise ValueError(f"{shape[0]} codes for scales {self.scales}, which have {sum(counts)} cells together")
        blocks = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        within = torch.cat([unravel(scale) for scale in self.scales])
        cells = torch.arange(len(blocks))[:, None].repeat(1, len(self.sizes))
        return Table(cells, torch.cat([blocks[:, None], within], 1), blocks)

    def neighbours(self, shape: Shape) -> Int[Tensor, "N S 1"]:
        """Where the code of the next coarser map stands that covers the cell's upper left corner; -1 in the first."""
        places, slots = self.places(shape), len(self.sizes)
        parents, start = [torch.full((prod(self.scales[0]),), -1)], 0
        for (rows, columns), (height, width) in pairwise(self.scales):
            row, column = unravel((height, width)).unbind(1)
            parents.append(start + row * rows // height * columns + column * columns // width)
            start += rows * columns
        parent = torch.cat(parents)
        found = torch.full((self.steps(shape) * slots, 1), -1)
        found[places.flatten(), 0] = places[:, parent.clamp(min=0)].where(parent >= 0, -1).flatten()
        return found.view(-1, slots, 1)
