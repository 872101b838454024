"""A small trained model of a codec's codes, in whole numbers: what `entropy` starts its adaptive counts from.

Every code has a vector, much as a codebook's entry has one, and so has every depth. The vectors of a cell's codes and
depth are added up, for the four neighbours that are known already and for what is known of the cell itself; a small
matrix for each of the five turns the sums into one vector, and the logarithm of a code's probability is the product
with its own vector plus a bias. This is a log-bilinear model [1] with one table for context and prediction. The
products are sums of integers and the exponential is a table computed from integers, so that the prediction is the same
on every machine.

[1] Mnih and Hinton, Three new graphical models for statistical language modelling, 2007.
"""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from math import isqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zoo.codecs.entropy import NEIGHBOURS, Digits
from zoo.codecs.errors import UserError

FILE = "entropy.safetensors"
STEPS = 64  # of a logarithm, in one bit
BIAS_STEPS = 8  # of a stored bias, in one bit
RANGE = 16  # bits that a code can be less likely than the likeliest
PEAK = 1 << 20  # weight of the likeliest code
FRACTION = 8  # binary places of the vector that codes are compared with
SOURCES = NEIGHBOURS + 1  # and the coarser codes


class ContextModel:
    """Vectors, biases and matrices of the depth of a cell and of each column of its codes (see `entropy.Digits`).

    Attributes:
        sizes: Number of codes of each codebook.
        vectors: int8 `[code, dim]`: of the depths, then of each column.
        biases: int8 `[code]` likewise, in 1/8 bit.
        mixing: int16 `[column, source, dim, dim]` likewise: the neighbours, coarser codes; in units of 2^-shift.
        shift: Binary places of `mixing`, at least 8.
        digest: Hex digest of all of it.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        vectors: list[Int[ndarray, "code dim"]],
        biases: list[Int[ndarray, "code"]],
        mixing: Int[ndarray, "column source dim dim"],
        shift: int,
    ) -> None:
        """Raises ValueError if shapes or types do not fit each other."""
        alphabets, dim = alphabets_of(sizes), mixing.shape[-1]
        fits = (
            mixing.shape == (len(alphabets), SOURCES, dim, dim)
            and mixing.dtype == np.int16
            and [v.shape for v in vectors] == [(alphabet, dim) for alphabet in alphabets]
            and [b.shape for b in biases] == [(alphabet,) for alphabet in alphabets]
            and all(tensor.dtype == np.int8 for tensor in vectors + biases)
            and FRACTION <= shift < 32
            and 0 < dim <= 64
            and len(alphabets) <= 256  # else sums could grow beyond what `Tables` holds exactly
        )
        if not fits:
            raise ValueError("its tensors do not fit its codebooks")
        self.sizes, self.vectors, self.biases, self.mixing, self.shift = sizes, vectors, biases, mixing, shift
        numbers = [np.array([*sizes, shift], "<i8"), *vectors, *biases, mixing.astype("<i2")]
        self.digest = hashlib.sha256(b"".join(array.tobytes() for array in numbers)).hexdigest()

    def pack(self) -> bytes:
        """The model as a safetensors file."""
        facts = {"sizes": np.array(self.sizes, np.int64), "shift": np.array([self.shift], np.int64)}
        facts["digest"] = np.frombuffer(bytes.fromhex(self.digest), np.uint8)
        tensors = {"vectors": np.concatenate(self.vectors), "biases": np.concatenate(self.biases)}
        return save(tensors | facts | {"mixing": self.mixing})

    @classmethod
    def unpack(cls, data: bytes) -> ContextModel:
        """The model that `pack` turned into bytes. Raises ValueError for anything else."""
        try:
            tensors = load(data)
            sizes = tuple(tensors["sizes"].tolist())
            starts = np.cumsum(alphabets_of(sizes))[:-1]
            vectors, biases = (np.split(tensors[name], starts) for name in ("vectors", "biases"))
            model = cls(sizes, vectors, biases, tensors["mixing"], int(tensors["shift"][0]))
            if model.digest != tensors["digest"].tobytes().hex():
                raise ValueError("its numbers are not those that were written")
            return model
        except (SafetensorError, KeyError, IndexError) as error:
            raise ValueError(f"it is no model of codes ({error})") from None

    @classmethod
    def read(cls, path: str | Path) -> ContextModel:
        """Raises UserError if the file is missing or no such model."""
        try:
            return cls.unpack(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; train the model of codes, or restore it") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; restore it") from None

    def predictor(self) -> Prediction:
        """What `entropy.encode` and `entropy.decode` take, for all codebooks or the first of them."""
        return Prediction(self.tables)

    @cached_property
    def tables(self) -> Tables:
        """The same numbers as they are multiplied."""
        return Tables(self)


def alphabets_of(sizes: tuple[int, ...]) -> list[int]:
    """Number of depths, then of the values of each column."""
    return [len(sizes) + 1, *Digits(sizes).alphabets]


class Tables:
    """A `ContextModel` as floating-point numbers that hold whole numbers: sums of their products stay below 2^53, so
    that these are exact in any order, and the libraries that add them up are many times as fast as with integers.

    Attributes:
        vectors: `[code, dim]` of the depths, then of each column.
        biases: `[code]` likewise, in the units of the products with vectors.
        near: `[column, dim, neighbour * dim]`.
        coarser: `[column, dim, dim]`.
        rows: All vectors, for each column a zero (no code) before them.
        starts: Where in `rows` the codes of each column begin.
        scale: What takes a mixed vector to `FRACTION` binary places.
    """

    def __init__(self, model: ContextModel) -> None:
        self.vectors = [vectors.astype(np.float64) for vectors in model.vectors]
        self.biases = [biases.astype(np.float64) * (STEPS // BIAS_STEPS << FRACTION) for biases in model.biases]
        columns, _, dim, _ = model.mixing.shape
        mixing = model.mixing.astype(np.float64).transpose(0, 2, 1, 3)
        self.near = mixing[:, :, :-1].reshape(columns, dim, -1)
        self.coarser = np.ascontiguousarray(mixing[:, :, -1])
        self.rows = np.concatenate([part for v in self.vectors for part in (np.zeros((1, dim)), v)])
        self.starts = np.cumsum([1, *(len(v) + 1 for v in self.vectors[:-1])])
        self.scale = 2.0 ** (FRACTION - model.shift)


class Prediction:
    """A `ContextModel` on its way through a grid; see `entropy.Predictor`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._near: Float[ndarray, "column dim"]
        self._coarser: Float[ndarray, "dim"]

    def enter(self, neighbours: list[list[int]]) -> None:
        tables, columns = self._tables, len(neighbours[0])
        self._coarser = np.zeros(tables.rows.shape[1])
        sums = tables.rows[np.array(neighbours) + tables.starts[:columns]].sum(1)
        self._near = tables.near[:columns] @ sums.ravel()

    def weights(self, column: int) -> Int[ndarray, "code"]:
        tables = self._tables
        mixed = self._near[column] + tables.coarser[column] @ self._coarser
        levels = tables.vectors[column] @ np.floor(mixed * tables.scale)
        levels += tables.biases[column]
        steps = (levels.max() - levels) * 2.0**-FRACTION
        return powers().take(steps.astype(np.int64), mode="clip")

    def follow(self, column: int, code: int) -> None:
        self._coarser += self._tables.vectors[column][code]


@cache
def powers() -> Int[ndarray, "step"]:
    """2^20 * 2^(-i / 64) for i in 0..1024, rounded down: by square roots of whole numbers, without a rounding error."""
    root = 2 << 256
    for _ in range(STEPS.bit_length() - 1):
        root = isqrt(root << 256)  # 2^256 times the 64th root of 2, in the end
    values = [PEAK << 256]
    for _ in range(STEPS * RANGE):
        values.append((values[-1] << 256) // root)
    return np.array([value >> 256 for value in values])
