"""Which items share a label, so that a part of one can stand as the example of another."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray


class Peers:
    """Items that share a label.

    Args:
        labels: Of each item; below 0 is none, which nothing shares.
    """

    def __init__(self, labels: Int[ndarray, "item"]) -> None:
        self.order = np.argsort(labels, kind="stable")
        self.place = np.argsort(self.order)
        ordered = labels[self.order]
        self.first = np.searchsorted(ordered, labels, "left")
        self.count = np.where(labels < 0, 0, np.searchsorted(ordered, labels, "right") - self.first)

    def other(self, item: int, draw: np.random.Generator) -> int | None:
        """Another item of its label, each as likely as the others; None if it is the only one, or has no label."""
        if self.count[item] < 2:
            return None
        drawn = int(draw.integers(self.count[item] - 1))
        return int(self.order[self.first[item] + drawn + (drawn >= self.place[item] - self.first[item])])
