"""Which items make which batch: items of similar length together, in an order that their number and a seed decide."""

import math

import numpy as np
from jaxtyping import Int
from numpy import ndarray


class LengthBuckets:
    """Batches of items whose lengths differ little, so that little of a padded batch is padding.

    Items are in one bucket if none of their axes differs by more than a factor. In each round over all items every one
    comes once: each bucket is shuffled and dealt evenly into as few batches as the budget allows, and all batches are
    shuffled. Batch i is a pure function of the arguments and i.

    Args:
        shapes: Cells of each item along each axis.
        budget: Most cells in a batch, padding included; an item that is larger makes a batch of its own.
        ratio: How much longer than the shortest item of a bucket its longest may be, above 1. Of sequences, a share of
            `1 - 1 / ratio` of a batch may be padding at most, about half of that is.
        seed: Of the order.

    Raises:
        ValueError: No items, or a budget or ratio that makes no sense.
    """

    def __init__(self, shapes: Int[ndarray, "item axes"], budget: int, ratio: float = 1.15, seed: int = 0) -> None:
        if not len(shapes):
            raise ValueError("there are no items to make batches of")
        if budget < 1 or not ratio > 1:
            raise ValueError(f"batches need a budget of 1 cell at least and a ratio above 1, got {budget} and {ratio}")
        self.shapes = shapes
        self._seed = seed
        self._latest: tuple[int, list[ndarray]] = (-1, [])
        keys = np.floor(np.log(shapes / shapes.min(0)) / math.log(ratio) + 1e-9)
        _, bucket = np.unique(keys, axis=0, return_inverse=True)
        self._buckets = []
        for number in range(bucket.max() + 1):
            items = np.flatnonzero(bucket == number)
            fitting = max(1, budget // int(shapes[items].max(0).prod()))
            self._buckets.append((items, -(-len(items) // fitting)))

    def __len__(self) -> int:
        """Batches in a round."""
        return sum(count for _, count in self._buckets)

    def batch(self, number: int) -> Int[ndarray, "item"]:
        """The items of batch `number` of the endless stream of rounds."""
        number_of_round, place = divmod(number, len(self))
        if self._latest[0] != number_of_round:
            self._latest = (number_of_round, self.round(number_of_round))
        return self._latest[1][place]

    def round(self, number: int) -> list[Int[ndarray, "item"]]:
        """All batches of one round."""
        draw = np.random.default_rng((self._seed, number))
        batches = []
        for items, count in self._buckets:
            batches += np.array_split(draw.permutation(items), count)
        return [batches[k] for k in draw.permutation(len(batches))]

    def padding(self) -> float:
        """Share of all cells of the first round's batches that is padding."""
        cells = sum(len(items) * int(self.shapes[items].max(0).prod()) for items in self.round(0))
        return 1 - int(self.shapes.prod(1, dtype=np.int64).sum()) / cells
