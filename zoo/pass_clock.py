"""Where the time of decoding goes: into forward passes, or into what lies between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from zoo.decoders.base import TokenModel
from zoo.decoders.heads import MultiTokenHeads


@dataclass
class PassClock:
    """CPU seconds in forward passes since it began.

    Attributes:
        target: Those of the model whose output counts.
        drafts: Those of all others, of heads as well.
    """

    target: float = 0.0
    drafts: float = 0.0


@contextmanager
def pass_clock(target: TokenModel) -> Generator[PassClock, None, None]:
    """Time all passes of token models and heads that run inside, on a CPU.

    Passes within passes belong to the outer one. What the target says of the codes of a step, given those before,
    counts as its passes do (`TokenModel.depth`), and so do passes of its stages.
    """
    clock, level, depth, own = PassClock(), 0, target.depth, set(target.modules())
    forward, ahead = TokenModel.forward, MultiTokenHeads.forward

    def timed(part: str, run: Callable[[], Any]) -> Any:
        nonlocal level
        level, start = level + 1, time.process_time()
        try:
            return run()
        finally:
            level -= 1
            if not level:
                setattr(clock, part, getattr(clock, part) + time.process_time() - start)

    @wraps(forward)
    def passed(model: TokenModel, *args: Any, **options: Any) -> Any:
        part = "target" if own & {model, getattr(model, "model", None)} else "drafts"
        return timed(part, lambda: forward(model, *args, **options))

    @wraps(ahead)
    def looked(heads: MultiTokenHeads, *args: Any, **options: Any) -> Any:
        return timed("drafts", lambda: ahead(heads, *args, **options))

    TokenModel.forward = passed  # type: ignore[method-assign]
    MultiTokenHeads.forward = looked  # type: ignore[method-assign]
    target.__dict__["depth"] = lambda *args: timed("target", lambda: depth(*args))
    try:
        yield clock
    finally:
        TokenModel.forward = forward  # type: ignore[method-assign]
        MultiTokenHeads.forward = ahead  # type: ignore[method-assign]
        del target.__dict__["depth"]
