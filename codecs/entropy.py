"""Entropy coding of code grids: adaptive integer models of each codebook in front of a range coder.

Every code is predicted from what both sides know already: how often each code came so far, which codes followed the
same code of the next coarser codebook, and which followed the same neighbour (audio: the frame before; pictures: the
cell above and the cell to the left). Each of these counts is mixed into the prediction as a Dirichlet prior that the
coarser knowledge parametrises [1]; how much each is trusted is chosen anew for every code, by what it would have saved
lately. A `zoo.codecs.context.ContextModel` that was trained for the codec can give the prediction to start from; counts
then change it only where they clearly save, as for media of another kind than it was trained on.

All of it is integer arithmetic. The range coder of `constriction` [2] takes probabilities as floating-point numbers and
gives code i of n the share 1 + floor(scale * p_i) of 2^24, with scale = (2^24 - n) / sum p. What it is handed here are
whole numbers whose sum is exactly 2^24 - n, so that scale is exactly 1, all its sums are exact in any order, and
nothing is ever rounded: files are the same on every machine.

[1] MacKay and Peto, A hierarchical Dirichlet language model, 1995.
[2] Bamler, Understanding entropy coding with asymmetric numeral systems, 2022; https://bamler-lab.github.io/constriction
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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
MARGIN = 256  # 1/64 bits that counts must have saved lately before they change what a trained model predicts
NEIGHBOURS = 4  # cells that a predictor is shown

Grid = tuple[Int[ndarray, "row codebook height width"], Int[ndarray, "row height width"] | None]
"""Codes of cells, and the depth of each where they differ in it."""

Cell = list[int]
"""The depth (-1: files without) and the value of each column of one cell; -1 where there is no code."""


class Predictor(Protocol):
    """Predicts the codes of one cell after another; a trained model in place of the uniform start."""

    def enter(self, neighbours: list[Cell]) -> None:
        """Go to the next cell; given are those near it, see `neighbours`."""

    def weights(self, column: int) -> Int[ndarray, "code"]:
        """Whole numbers of at least 0, proportional to the probability of each code; their sum is at most 2^31.
        Column 0 is the depth, of which there may be more here than the file's codebooks allow."""

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

    A cell is its depth (-1 without) and its columns. `related=False` counts the codes of a codebook alone, without
    contexts: to measure what these save.
    """
    rows, columns, height, width = grid.shape
    budget = Budget(ROWS)
    alphabets, predicted = (len(digits.sizes) + 1, *digits.alphabets), predictor is not None
    models = [AdaptiveModel(alphabet, budget, predicted) for alphabet in alphabets]
    outside = [ABSENT] * (columns + 1)
    first = 1 if depth is None else 0
    for row in range(rows):
        above = [outside] * width
        for y in range(height):
            depths = [ABSENT] * width if depth is None else depth[row, y].tolist()
            line = [[one, *codes] for one, codes in zip(depths, grid[row, :, y].T.tolist(), strict=True)]
            for x, cell in enumerate(line):
                near = neighbours(line, above if height > 1 else None, x, outside)
                if predictor is not None:
                    predictor.enter(near)
                at, end, coarser, left, up = first, columns + 1, ABSENT, near[0], above[x]
                while at < end:
                    contexts = (coarser, up[at], left[at]) if related else ()
                    start = None if predictor is None else predictor.weights(at)
                    cell[at] = coarser = models[at].code(coder, cell[at], contexts, start)
                    if predictor is not None:
                        predictor.follow(at, coarser)
                    if at == 0:
                        end = 1 + digits.ends[coarser]
                    at += 1
                cell[end:] = [ABSENT] * (columns + 1 - end)
            above = line
            done = np.array(line).T
            grid[row, :, y] = done[1:]
            if depth is not None:
                depth[row, y] = done[0]


def neighbours(line: list[Cell], above: list[Cell] | None, x: int, outside: Cell) -> list[Cell]:
    """The four cells that tell most about cell `x` of a line, of those that are known; `outside` where there is none.

    In pictures: to the left, above, above to the right and to the left. In audio: the last frame and those before.
    """
    if above is None:
        return [line[x - back] if x >= back else outside for back in range(1, NEIGHBOURS + 1)]
    return [
        line[x - 1] if x else outside,
        above[x],
        above[x + 1] if x + 1 < len(above) else outside,
        above[x - 1] if x else outside,
    ]


@dataclass
class Budget:
    """Contexts that may still be learned; what both directions spend alike."""

    rows: int


class AdaptiveModel:
    """Codes of one column: counts in every context, mixed from the most general to the most special."""

    def __init__(self, alphabet: int, budget: Budget, predicted: bool) -> None:
        """`predicted`: whether it starts from what a predictor says, which it then leaves only where it has to."""
        self.alphabet, self._budget = alphabet, budget
        self._uniform = np.full(alphabet, SCALE // alphabet)
        self._counts: list[dict[int, Counts]] = [{} for _ in STARTS]
        if predicted:
            self._margin, self._cost = MARGIN, [[0] * (len(TRUST) + 1) for _ in STARTS]
        else:
            self._margin, self._cost = 0, [[0 if trust == start else 256 for trust in (*TRUST, 0)] for start in STARTS]

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
        weights = self._uniform if start is None else start[: self.alphabet]
        total = int(weights.sum())
        seen = []
        for kind, context in enumerate((0, *contexts)):
            counts = self._counts[kind].get(context)
            if counts is None:
                continue
            seen.append((kind, counts, weights, total))
            trust = cheapest(self._cost[kind], self._margin)
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
        cost, came, spent = self._cost[kind], int(counts.each[symbol]) * total + 1, log2(total)
        for i, (trust, more) in enumerate(zip(TRUST, log2_with_trust(counts.sum), strict=True)):
            cost[i] += spent + more - log2(came + trust * weight) - (cost[i] >> FADING)
        cost[-1] += spent - log2(weight + 1) - (cost[-1] >> FADING)

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


def cheapest(cost: list[int], margin: int) -> int | None:
    """The trust that would have cost least; None if the counts are better left out, or save no more than the margin."""
    best = cost.index(min(cost))
    return TRUST[best] if best < len(TRUST) and cost[best] + margin <= cost[-1] else None


def shares(weights: Int[ndarray, "code"], total: int) -> Int[ndarray, "code"]:
    """Weights scaled to a sum of exactly 2^24 less one for each code, which the range coder adds."""
    free = TOTAL - len(weights)
    scaled = weights * free // total
    scaled[-1] += free - int(scaled.sum())
    return scaled


# floor(64 * log2(i / 64)) for i in 64..127, from whole numbers alone.
FRACTIONS = [0] * 64 + [(i**64).bit_length() - 1 - 6 * 64 for i in range(64, 128)]


def log2(value: int) -> int:
    """1 and the logarithm of a whole number above 0, in 1/64 bits, rounded down to that of its leading 7 bits."""
    bits = value.bit_length()
    return 64 * bits + FRACTIONS[(value << 7) >> bits]


@lru_cache(1 << 12)
def log2_with_trust(count: int) -> list[int]:
    """What `log2`, less its 1, gives for a number of observations and what each degree of trust adds to it."""
    return [log2(count + trust) - 64 for trust in TRUST]


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
