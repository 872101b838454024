"""Entropy coding of code grids: adaptive integer models of each codebook in front of a range coder.

Every code is predicted from what both sides know already: how often each code came so far, which codes followed the
same code of the next coarser codebook, and which followed the same neighbour (audio: the frame before; pictures: the
cell above and the cell to the left). Each of these counts is mixed into the prediction as a Dirichlet prior that the
coarser knowledge parametrises [1]; how much each is trusted is chosen anew for every code, by what it would have saved
lately. A `zoo.codecs.context.ContextModel` that was trained for the codec can give the prediction to start from.

All of it is integer arithmetic. The range coder of `constriction` [2] takes probabilities as floating-point numbers and
gives code i of n the share 1 + floor(scale * p_i) of 2^24, with scale = (2^24 - n) / sum p. What it is handed here are
whole numbers whose sum is exactly 2^24 - n, so that scale is exactly 1, all its sums are exact in any order, and
nothing is ever rounded: files are the same on every machine.

[1] MacKay and Peto, A hierarchical Dirichlet language model, 1995.
[2] Bamler, Understanding entropy coding with asymmetric numeral systems, 2022; https://bamler-lab.github.io/constriction
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import constriction
import numpy as np
from jaxtyping import Int
from numpy import ndarray

from zoo.codecs.packing import check

TOTAL = 1 << 24  # what the shares of all codes sum to
SCALE = 1 << 30  # about what the weights of a prediction sum to
LARGEST_ALPHABET = 1 << 10  # larger codebooks are coded digit by digit
LEAST_BYTES = 256  # codes that a byte stands for at most: so a short file cannot claim an endless grid
ROWS = 1 << 15  # contexts that are learned at most: 128 MB of counts
ABSENT = -1  # no code: behind the depth of a cell, or outside the picture
TRUST = (2, 16, 128, 1024, 8192)  # how many observations a prediction is worth beside the counts of one context
FADING = 5  # the savings of n codes ago count 2^-(n / 22)
STARTS = (1024, 16, 16, 16)  # trust to begin with, for each kind of context


class Predictor(Protocol):
    """Predicts the codes of one cell after another; a trained model in place of the uniform start."""

    def enter(self, first: list[int] | None, second: list[int] | None) -> None:
        """Go to the next cell. Given are the columns of the cell to its left and, in pictures, of the one above it; in
        audio, of the last frame and the one before; None where there is no such cell."""

    def weights(self, column: int) -> Int[ndarray, "code"]:
        """Whole numbers of at least 0, proportional to the probability of each code; their sum is at most 2^31."""

    def follow(self, column: int, code: int) -> None:
        """Take notice of the code that came."""


def encode(
    codes: Int[ndarray, "row codebook height width"],
    sizes: tuple[int, ...],
    depth: Int[ndarray, "row height width"] | None = None,
    predictor: Predictor | None = None,
) -> bytes:
    """Codes (and how many of each cell are in use) as few bytes.

    Args:
        codes: Audio has a height of 1. What lies behind `depth` is not stored.
        sizes: Number of codes of each codebook.
        depth: 0 to all codebooks; None if all are in use everywhere.
        predictor: What starts the adaptive counts, see `decode`.

    Raises:
        ValueError: Codes outside their codebooks, or a depth out of range.
    """
    digits = Digits(sizes)
    check(codes, sizes, depth)
    writer = Writer()
    walk(writer, digits.split(codes), depth, digits, predictor)
    data = writer.bytes()
    return data + bytes(max(0, least_bytes(codes.size) - len(data)))


def decode(
    data: bytes,
    shape: tuple[int, int, int],
    sizes: tuple[int, ...],
    has_depth: bool = False,
    predictor: Predictor | None = None,
) -> tuple[Int[ndarray, "row codebook height width"], Int[ndarray, "row height width"] | None]:
    """Codes and depth from what `encode` gave; codes behind the depth are -1.

    Args:
        data: The bytes.
        shape: Rows, height and width.
        sizes, has_depth, predictor: As when encoding.

    Raises:
        ValueError: Bytes that `encode` cannot have given for that shape.
    """
    rows, height, width = shape
    digits = Digits(sizes)
    if len(data) < least_bytes(rows * height * width * len(sizes)):
        raise ValueError(f"{len(data)} bytes are too few for {rows} x {len(sizes)} x {height} x {width} codes")
    grid = np.full((rows, digits.columns, height, width), ABSENT)
    depth = np.zeros((rows, height, width), np.int64) if has_depth else None
    walk(Reader(data), grid, depth, digits, predictor)
    return digits.join(grid), depth


def least_bytes(codes: int) -> int:
    """Bytes that so many codes are padded to."""
    return -(-codes // LEAST_BYTES)


class Digits:
    """Codebooks of more than 1024 codes as several columns of fewer, most significant digit first.

    Attributes:
        alphabets: Number of values of each column.
        ends: Columns of the first so many codebooks.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self.alphabets, self.ends = sizes, [], [0]
        self._shifts: list[list[int]] = []
        for size in sizes:
            bits = (size - 1).bit_length()
            parts = max(1, -(-bits // (LARGEST_ALPHABET.bit_length() - 1)))
            width = -(-bits // parts)
            shifts = [width * (parts - 1 - i) for i in range(parts)]
            self.alphabets += [((size - 1) >> shifts[0]) + 1] + [1 << width] * (parts - 1)
            self._shifts.append(shifts)
            self.ends.append(len(self.alphabets))
        self.columns = len(self.alphabets)

    def split(self, codes: Int[ndarray, "row codebook *grid"]) -> Int[ndarray, "row column *grid"]:
        """-1 (no code) becomes -1 in all columns."""
        parts = [
            np.where(codes[:, book] < 0, ABSENT, codes[:, book] >> shift & (alphabet - 1 if at else -1))
            for book, shifts in enumerate(self._shifts)
            for at, (shift, alphabet) in enumerate(zip(shifts, self.alphabets[self.ends[book] :], strict=False))
        ]
        return np.stack(parts, 1)

    def join(self, grid: Int[ndarray, "row column *grid"]) -> Int[ndarray, "row codebook *grid"]:
        """Raises ValueError for codes that a codebook does not have."""
        books = []
        for book, (size, shifts) in enumerate(zip(self.sizes, self._shifts, strict=True)):
            columns = grid[:, self.ends[book] : self.ends[book + 1]]
            code = sum(columns[:, i] << shift for i, shift in enumerate(shifts))
            books.append(np.where(columns[:, 0] == ABSENT, ABSENT, code))
            if (books[-1] >= size).any():
                raise ValueError("it holds codes that its codebooks do not have")
        return np.stack(books, 1)


def walk(
    coder: Writer | Reader,
    grid: Int[ndarray, "row column height width"],
    depth: Int[ndarray, "row height width"] | None,
    digits: Digits,
    predictor: Predictor | None,
    related: bool = True,
) -> None:
    """Pass every code through the coder, in the one order that both directions share; the reader fills the arrays.

    `related=False` counts the codes of a codebook alone, without contexts: to measure what these save.
    """
    rows, columns, height, width = grid.shape
    budget = Budget(ROWS)
    models = [AdaptiveModel(alphabet, budget) for alphabet in digits.alphabets]
    depths = AdaptiveModel(len(digits.sizes) + 1, budget)
    for row in range(rows):
        above: list[list[int] | None] = [None] * width
        above_depth = [ABSENT] * width
        for y in range(height):
            line = grid[row, :, y].T.tolist()
            depth_line = None if depth is None else depth[row, y].tolist()
            left, before, left_depth = None, None, ABSENT
            for x, cell in enumerate(line):
                end, coarser = columns, ABSENT
                if depth_line is not None:
                    left_depth = depths.code(coder, depth_line[x], (ABSENT, above_depth[x], left_depth))
                    depth_line[x] = above_depth[x] = coarser = left_depth
                    end = digits.ends[left_depth]
                up = above[x]
                if predictor is not None:
                    predictor.enter(left, before if height == 1 else up)
                for at in range(end):
                    contexts = (coarser, ABSENT if up is None else up[at], ABSENT if left is None else left[at])
                    contexts = contexts if related else ()
                    start = None if predictor is None else predictor.weights(at)
                    cell[at] = coarser = models[at].code(coder, cell[at], contexts, start)
                    if predictor is not None:
                        predictor.follow(at, coarser)
                cell[end:] = [ABSENT] * (columns - end)
                before = left
                above[x] = left = cell
            grid[row, :, y] = np.array(line).T
            if depth is not None:
                depth[row, y] = depth_line


@dataclass
class Budget:
    """Contexts that may still be learned; what both directions spend alike."""

    rows: int


class AdaptiveModel:
    """Codes of one column: counts in every context, mixed from the most general to the most special."""

    def __init__(self, alphabet: int, budget: Budget) -> None:
        self.alphabet, self._budget = alphabet, budget
        self._uniform = np.full(alphabet, SCALE // alphabet)
        self._counts: list[dict[int, Counts]] = [{} for _ in STARTS]
        self._cost = [[0 if trust == start else 64 for trust in TRUST] + [64] for start in STARTS]

    def code(
        self,
        coder: Writer | Reader,
        symbol: int,
        contexts: tuple[int, ...],
        start: Int[ndarray, "code"] | None = None,
    ) -> int:
        """Pass one symbol through the coder and learn from it; a reader's `symbol` is ignored."""
        if self.alphabet == 1:
            return 0
        weights = self._uniform if start is None else start
        total = int(weights.sum())
        seen = []
        for kind, context in enumerate((0, *contexts)):
            counts = self._counts[kind].get(context)
            if counts is None:
                continue
            seen.append((kind, counts, weights, total))
            trust = cheapest(self._cost[kind])
            if trust is not None:
                if total < SCALE:
                    weights = weights << (SCALE // total).bit_length()
                    total = int(weights.sum())
                came = np.multiply(counts.each, total, dtype=np.int64)
                weights = (weights * trust + came) // (counts.sum + trust)
                total = int(weights.sum())
        symbol = coder.code(symbol, shares(weights, total))
        for kind, counts, before, before_total in seen:
            self._judge(kind, counts, symbol, int(before[symbol]), before_total)
        for kind, context in enumerate((0, *contexts)):
            self._learn(kind, context, symbol)
        return symbol

    def _judge(self, kind: int, counts: Counts, symbol: int, weight: int, total: int) -> None:
        """Charge every degree of trust with the bits that it would have taken for the symbol."""
        cost, came = self._cost[kind], int(counts.each[symbol]) * total
        for i, trust in enumerate(TRUST):
            spent = log2((counts.sum + trust) * total) - log2(came + trust * weight + 1)
            cost[i] += spent - (cost[i] >> FADING)
        cost[-1] += log2(total) - log2(weight + 1) - (cost[-1] >> FADING)

    def _learn(self, kind: int, context: int, symbol: int) -> None:
        counts = self._counts[kind].get(context)
        if counts is None:
            if self._budget.rows == 0:
                return
            self._budget.rows -= 1
            counts = self._counts[kind][context] = Counts(self.alphabet)
        counts.each[symbol] += 1
        counts.sum += 1


class Counts:
    """How often each code came in one context."""

    __slots__ = ("each", "sum")

    def __init__(self, alphabet: int) -> None:
        self.each, self.sum = np.zeros(alphabet, np.int32), 0


def cheapest(cost: list[int]) -> int | None:
    """The trust that would have cost least; None if the counts are better left out."""
    best = cost.index(min(cost))
    return TRUST[best] if best < len(TRUST) else None


def shares(weights: Int[ndarray, "code"], total: int) -> Int[ndarray, "code"]:
    """Weights scaled to a sum of exactly 2^24 less one for each code, which the range coder adds."""
    free = TOTAL - len(weights)
    scaled = weights * free // total
    scaled[-1] += free - int(scaled.sum())
    return scaled


def log2(value: int) -> int:
    """Logarithm of a whole number above 0 in 1/16 bits, rounded down to the next of its leading 5 bits."""
    bits = value.bit_length()
    return 16 * bits + fractions()[(value >> (bits - 5) if bits > 5 else value << (5 - bits)) & 15]


@cache
def fractions() -> list[int]:
    """floor(16 * log2(1 + i / 16)) for i in 0..15, from whole numbers alone."""
    return [((16 + i) ** 16).bit_length() - 1 - 64 for i in range(16)]


class Writer:
    """Range coder, writing direction."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def code(self, symbol: int, share: Int[ndarray, "code"]) -> int:
        self._coder.encode(symbol, exact(share))
        return symbol

    def bytes(self) -> bytes:
        """All that was written, in the fewest bytes: a reader takes zeros for what lies behind the end.

        The library would end with one or two words of 4 bytes. What it has to name is any number from `low` up to
        `low + span`, and one with as many zeros at its end as possible is among them.
        """
        words = self._coder.get_compressed()
        if not len(words):
            return b""
        position, (lower, span) = self._coder.pos()
        carried = lower + (1 << 32) - 1 >= 1 << 64  # then the words before hold the overflow of the last one
        low = (int.from_bytes(words[:position].astype(">u4").tobytes(), "big") - carried << 64) + lower
        zeros, point = 0, low
        while zeros < 4 * position + 8:
            step = 1 << 8 * (zeros + 1)
            rounded = -(-low // step) * step
            if rounded >= low + span:
                break
            zeros, point = zeros + 1, rounded
        size = 4 * position + 8 - zeros
        return (point >> 8 * zeros).to_bytes(size, "big")


class Reader:
    """Range coder, reading direction."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def code(self, _: int, share: Int[ndarray, "code"]) -> int:
        """Raises ValueError for data that no writer gives."""
        try:
            return self._coder.decode(exact(share))
        except AssertionError as error:
            raise ValueError(f"its codes cannot be read: {error}") from None


def exact(share: Int[ndarray, "code"]) -> constriction.stream.model.Model:
    """The model that gives code i the share `share[i] + 1` of 2^24; the sum of `share` must be 2^24 less its length."""
    return constriction.stream.model.Categorical(share.astype(np.float64), lazy=True, perfect=False)
