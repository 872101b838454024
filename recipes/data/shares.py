"""Drawing from a corpus by shares: so much of all that is drawn comes from folders of such names."""

import fnmatch

import numpy as np
from numpy import ndarray

from zoo.codecs.errors import UserError


def check_shares(shares: dict[str, float]) -> None:
    """Raise UserError for shares that are negative or add to more than all."""
    if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"shares {shares} must not be negative nor add to more than 1")


def probabilities(sizes: ndarray, folders: list[str], shares: dict[str, float]) -> ndarray:
    """Probability of each file [file]: the share of its folder's pattern, divided in proportion to sizes.

    The first pattern that matches a folder counts; the folders that none matches divide what is left.
    """
    patterns = list(shares)
    places: dict[str, int] = {
        folder: next((k for k, pattern in enumerate(patterns) if fnmatch.fnmatch(folder, pattern)), -1)
        for folder in set(folders)
    }
    matching = np.array([places[folder] for folder in folders])
    result = np.zeros(len(folders))
    rest = 1.0 - sum(shares.values())
    for k in range(-1, len(patterns)):
        amounts = np.where(matching == k, sizes, 0)
        share = rest if k < 0 else shares[patterns[k]]
        if amounts.any():
            result += share * amounts / amounts.sum()
        elif k >= 0:
            raise UserError(f"no folder matches {patterns[k]!r} of shares; there are {', '.join(sorted(set(folders)))}")
    if result.sum() <= 0:
        raise UserError(f"shares {shares} leave nothing to draw from")
    return result


class Chooser:
    """Chooses items with given weights, quickly."""

    def __init__(self, items: ndarray, weights: ndarray) -> None:
        self._items = items
        self._cumulative = np.cumsum(weights / weights.sum())

    def choose(self, chance: np.random.Generator) -> int:
        """An item."""
        # Clamped because rounding may leave the last sum a little under 1; side="right" never hits a weight of zero.
        place = np.searchsorted(self._cumulative, chance.random(), side="right")
        return int(self._items[min(place, len(self._items) - 1)])
