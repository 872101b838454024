"""Choosers of masked decoding, a file each: which candidates are kept in a step."""

from collections.abc import Callable

from zoo.decoders.sampling.choosers.adaptive import Adaptive
from zoo.decoders.sampling.choosers.base import Chooser, Ranked, View
from zoo.decoders.sampling.choosers.confidence import Confidence
from zoo.decoders.sampling.choosers.eager import Eager, Threshold
from zoo.decoders.sampling.choosers.halton import Halton
from zoo.decoders.sampling.choosers.judge import Judge
from zoo.decoders.sampling.choosers.learned import Example, Filter, Learned, Watched, trained_filter
from zoo.decoders.sampling.choosers.local_leap import LocalLeap
from zoo.decoders.sampling.choosers.orders import Entropy, LeftToRight, Margin, Shuffled
from zoo.decoders.sampling.choosers.prophet import Prophet
from zoo.decoders.sampling.choosers.remask import Remask
from zoo.decoders.sampling.choosers.rescored import Rescored
from zoo.decoders.sampling.choosers.spans import Spans

NAMES: dict[str, Callable[..., Chooser]] = {
    "confidence": Confidence,
    "entropy": Entropy,
    "halton": Halton,
    "left-to-right": LeftToRight,
    "local-leap": LocalLeap,
    "margin": Margin,
    "prophet": Prophet,
    "random": Shuffled,
    "remask": Remask,
    "spans": Spans,
    "threshold": Threshold,
}
"""Those that need nothing to be made, by name."""


def find(name: str) -> Chooser:
    """A chooser of that name, as it is by default.

    Raises:
        ValueError: No chooser has the name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no chooser {name!r}; there are {', '.join(sorted(NAMES))}")
    return NAMES[name]()


__all__ = [
    "NAMES",
    "Adaptive",
    "Chooser",
    "Confidence",
    "Eager",
    "Entropy",
    "Example",
    "Filter",
    "Halton",
    "Judge",
    "Learned",
    "LeftToRight",
    "LocalLeap",
    "Margin",
    "Prophet",
    "Ranked",
    "Remask",
    "Rescored",
    "Shuffled",
    "Spans",
    "Threshold",
    "View",
    "Watched",
    "find",
    "trained_filter",
]
