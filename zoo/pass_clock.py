"""Where the time of decoding goes: into forward passes, or into what lies between them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from zoo.decoders.base import TokenModel


@dataclass
class PassClock:
    """CPU seconds in forward passes since it began.

    Attributes:
        target: Those of the model whose output counts.
        drafts: Those of all others.
    """

    target: float = 0.0
    drafts: float = 0.0


@contextmanager
def pass_clock(target: TokenModel) -> Generator[PassClock, None, None]:
    """Time all passes of token models that run inside, on a CPU; passes within passes belong to the outer one."""
    clock, depth, forward = PassClock(), 0, TokenModel.forward

    @wraps(forward)
    def timed(model: TokenModel, *args: Any, **options: Any) -> Any:
        nonlocal depth
        depth, start = depth + 1, time.process_time()
        try:
            return forward(model, *args, **options)
        finally:
            depth -= 1
            if not depth:
                part = "target" if target in (model, getattr(model, "model", None)) else "drafts"
                setattr(clock, part, getattr(clock, part) + time.process_time() - start)

    TokenModel.forward = timed  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        TokenModel.forward = forward  # type: ignore[method-assign]
