"""JPEG, WebP and AVIF, as Pillow writes them, at any number of bits of a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, features
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.codecs.image.io import to_float
from zoo.recipes.metrics import Score

# Each at its best: files are judged by their size alone, not by the time they took.
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True},
    "WebP": {"method": 6},
    "AVIF": {"speed": 2},
}
QUALITIES = range(101)

Metrics = Mapping[str, Callable[[Tensor, Tensor], Score]]


def require_formats() -> None:
    """Raise UserError unless Pillow can write all formats."""
    missing = [name for name in ("webp", "avif") if not features.check(name)]
    if missing:
        raise UserError(f"this Pillow has no {' and no '.join(missing)}: pip install --upgrade pillow")


def libraries() -> dict[str, str]:
    """Versions of what this Pillow writes the formats with."""
    names = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp", "libavif": "avif"}
    return {name: features.version(feature) or "missing" for name, feature in names.items()}


@dataclass
class Coder:
    """One picture in one format at every quality, each coded once and only if asked for."""

    picture: UInt8[np.ndarray, "height width 3"]
    kind: str
    metrics: Metrics
    _files: dict[int, bytes] = field(default_factory=dict)
    _scores: dict[int, dict[str, Score]] = field(default_factory=dict)

    def at_bits(self, bits: int) -> dict[str, Score]:
        """Metrics at a file of so many bits, between the two nearest qualities in proportion to their sizes."""
        low, high = QUALITIES[0], QUALITIES[-1]
        reason = ""
        if self.bits(low) > bits:
            reason = f"the smallest {self.kind} has {self.bits(low)} bits"
        elif self.bits(high) <= bits:
            reason = f"the largest {self.kind} has {self.bits(high)} bits"
        if reason:
            return {name: Score(math.nan, reason) for name in self.metrics}
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bits(middle) <= bits else (low, middle)
        share = (bits - self.bits(low)) / max(1, self.bits(high) - self.bits(low))
        below, above = self.scores(low), self.scores(high)
        return {name: _between(below[name], above[name], share) for name in self.metrics}

    def bits(self, quality: int) -> int:
        """Size of the file."""
        if quality not in self._files:
            buffer = io.BytesIO()
            Image.fromarray(self.picture).save(buffer, self.kind, quality=quality, **FORMATS[self.kind])
            self._files[quality] = buffer.getvalue()
        return 8 * len(self._files[quality])

    def scores(self, quality: int) -> dict[str, Score]:
        """Metrics of what the file decodes to."""
        if quality not in self._scores:
            self.bits(quality)
            decoded = np.asarray(Image.open(io.BytesIO(self._files[quality])).convert("RGB"))
            self._scores[quality] = {
                name: metric(self._reference, torch.from_numpy(to_float(decoded)))
                for name, metric in self.metrics.items()
            }
        return self._scores[quality]

    @cached_property
    def _reference(self) -> Tensor:
        return torch.from_numpy(to_float(self.picture))


def _between(below: Score, above: Score, share: float) -> Score:
    if below.reason or above.reason:
        return Score(math.nan, below.reason or above.reason)
    return Score(below.value + share * (above.value - below.value))
