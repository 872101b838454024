"""How many places of masked decoding stay open behind each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

_SLACK = 1e-6  # of a place: what rounding takes from a whole number, as in 12 * (1 - 2 / 12)

Schedule = Callable[[float], float]
"""From the share of the steps that is done, in (0, 1], to the share of the places that is open; 0 at 1."""

SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),
    "arccos": lambda progress: math.acos(progress) / (math.pi / 2),
    "linear": lambda progress: 1 - progress,
}
"""Those of MaskGIT (Chang et al., arXiv 2202.04200): cosine fills few places at first, arccos many."""


def find(schedule: str | Schedule) -> Schedule:
    """The schedule of that name, or the schedule itself.

    Raises:
        ValueError: No schedule has the name.
    """
    if not isinstance(schedule, str):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(f"there is no schedule {schedule!r}; there are {', '.join(sorted(SCHEDULES))}")
    return SCHEDULES[schedule]


def places_left(
    schedule: Schedule, progress: float, first: Int[Tensor, "R"], now: Int[Tensor, "R"]
) -> Int[Tensor, "R"]:
    """Places that are open behind a step: at least one is filled in each, and in the last all are.

    Args:
        first: Open before the first step.
        now: Open before this one.
    """
    if progress >= 1:
        return torch.zeros_like(now)
    planned = (first.double() * schedule(progress) + _SLACK).floor().to(now.dtype)
    return torch.minimum(planned, now - 1).clamp(min=0)
