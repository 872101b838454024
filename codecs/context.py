"""A small trained model of a codec's codes, in whole numbers: what `entropy` starts its adaptive counts from.

Every code has a vector, much as a codebook's entry has one. The vectors of a cell's codes are added up, for the two
neighbours that are known already and for the coarser codes of the cell itself; a small matrix for each of the three
turns the sums into one vector, and the logarithm of a code's probability is the product with its own vector plus a
bias. This is a log-bilinear model [1] with one table for context and prediction. The products are sums of integers and
the exponential is a table computed from integers, so that the prediction is the same on every machine.

[1] Mnih and Hinton, Three new graphical models for statistical language modelling, 2007.
"""

from __future__ import annotations

import hashlib
from functools import cache
from math import isqrt
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zoo.codecs.entropy import Digits
from zoo.codecs.errors import UserError

FILE = "entropy.safetensors"
STEPS = 64  # of a logarithm, in one bit
BIAS_STEPS = 8  # of a stored bias, in one bit
RANGE = 16  # bits that a code can be less likely than the likeliest
PEAK = 1 << 20  # weight of the likeliest code
FRACTION = 8  # binary places of the vector that codes are compared with
SOURCES = 3  # two neighbours and the coarser codes


class ContextModel:
    """Vectors, biases and matrices of each column of codes (see `entropy.Digits`).

    Attributes:
        sizes: Number of codes of each codebook.
        vectors: int8 `[code, dim]` of each column.
        biases: int8 `[code]` of each column, in 1/8 bit.
        mixing: int16 `[column, source, dim, dim]`: two neighbours, coarser codes; in units of 2^-shift.
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
        digits, dim = Digits(sizes), mixing.shape[-1]
        alphabets = digits.alphabets
        fits = (
            mixing.shape == (digits.columns, SOURCES, dim, dim)
            and mixing.dtype == np.int16
            and [v.shape for v in vectors] == [(alphabet, dim) for alphabet in alphabets]
            and [b.shape for b in biases] == [(alphabet,) for alphabet in alphabets]
            and all(tensor.dtype == np.int8 for tensor in vectors + biases)
            and FRACTION <= shift < 32
            and 0 < dim <= 64
        )
        if not fits:
            raise ValueError("its tensors do not fit its codebooks")
        self.sizes, self.vectors, self.biases, self.mixing, self.shift = sizes, vectors, biases, mixing, shift
        numbers = [np.array([*sizes, shift], "<i8"), *vectors, *biases, mixing.astype("<i2")]
        self.digest = hashlib.sha256(b"".join(array.tobytes() for array in numbers)).hexdigest()
        self._vectors = [v.astype(np.int64) for v in vectors]
        self._levels = [b.astype(np.int64) * (STEPS // BIAS_STEPS) for b in biases]
        self._near, self._coarser = np.split(mixing.astype(np.int64), [2], axis=1)

    def pack(self) -> bytes:
        """The model as a safetensors file."""
        tensors = {f"vectors.{i}": vectors for i, vectors in enumerate(self.vectors)}
        tensors |= {f"biases.{i}": biases for i, biases in enumerate(self.biases)}
        facts = {"sizes": np.array(self.sizes, np.int64), "shift": np.array([self.shift], np.int64)}
        return save(tensors | facts | {"mixing": self.mixing})

    @classmethod
    def unpack(cls, data: bytes) -> ContextModel:
        """The model that `pack` turned into bytes. Raises ValueError for anything else."""
        try:
            tensors = load(data)
            sizes = tuple(tensors["sizes"].tolist())
            columns = range(Digits(sizes).columns)
            vectors, biases = ([tensors[f"{name}.{i}"] for i in columns] for name in ("vectors", "biases"))
            return cls(sizes, vectors, biases, tensors["mixing"], int(tensors["shift"][0]))
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
        return Prediction(self)


class Prediction:
    """A `ContextModel` on its way through a grid; see `entropy.Predictor`."""

    def __init__(self, model: ContextModel) -> None:
        self._model = model
        self._near: Int[ndarray, "column dim"]
        self._coarser = np.zeros(model.mixing.shape[-1], np.int64)

    def enter(self, *neighbours: list[int] | None) -> None:
        self._coarser = np.zeros_like(self._coarser)
        sums = np.stack([self._sum(cell) for cell in neighbours])
        self._near = np.einsum("csij,sj->ci", self._model._near, sums)

    def weights(self, column: int) -> Int[ndarray, "code"]:
        model = self._model
        mixed = self._near[column] + model._coarser[column, 0] @ self._coarser
        levels = model._vectors[column] @ (mixed >> model.shift - FRACTION) >> FRACTION
        levels += model._levels[column]
        return powers().take(levels.max() - levels, mode="clip")

    def follow(self, column: int, code: int) -> None:
        self._coarser += self._model._vectors[column][code]

    def _sum(self, cell: list[int] | None) -> Int[ndarray, "dim"]:
        if cell is None:
            return np.zeros_like(self._coarser)
        return sum(
            (vectors[code] for vectors, code in zip(self._model._vectors, cell, strict=False) if code >= 0),
            np.zeros_like(self._coarser),
        )


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
