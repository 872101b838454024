"""How many codes each cell of a picture of any size has, for a size of its file or for a quality.

The choice is that of `codecs.depth`, made tile by tile: first all tiles tell what their cells may choose from, then one
price holds for all of them. What a file really takes (header, entropy coding) is measured on the outcome, and the rate
that is asked of the codes corrected until that fits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor

from zoo.codecs.base import Tokens
from zoo.codecs.depth import Choice, Curve, map_bits, with_depth
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import Pixels
from zoo.codecs.image.tiling import Progress, Tiling, assemble, decode_tiled, visit

KEPT = 1 << 14  # cells whose choices are remembered: each takes some kilobytes
CLOSE = 0.99  # of the bits that there are; nearer is not looked for
PASSES = 8  # in looking for it, after which anything that fits will do
STOPS = 1024  # prices that a quality is looked for among


def encode_to_bits(
    codec: ImageCodec,
    pixels: Pixels,
    bits: float,
    measure: Callable[[Tokens], float],
    codebooks: int | None = None,
    beam: int = 1,
    tiling: Tiling | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """Tokens of the lowest latent error for which `measure` gives at most so many bits, as nearly as it pays to look.

    Args:
        codec: A codec with a residual quantizer.
        pixels, tiling, progress: See `encode_tiled`.
        bits: Of the file, all of it.
        measure: How many bits tokens take there.
        codebooks: Use no more than the first so many (default: all).
        beam: See `Codec.encode`.

    Returns:
        Tokens with `depth`.

    Raises:
        ValueError: One code for each cell takes more bits, or as `encode_tiled`.
    """
    return Choices(codec, pixels, codebooks, beam, tiling, progress).within(bits, measure)


def encode_to_quality(
    codec: ImageCodec,
    pixels: Pixels,
    psnr: float,
    codebooks: int | None = None,
    beam: int = 1,
    tiling: Tiling | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """Tokens of the lowest rate at which the picture comes back with that peak signal-to-noise ratio, in dB.

    A picture that cannot get there uses all codes that bring its latents nearer. Arguments, result and errors are those
    of `encode_to_bits`.
    """
    choices = Choices(codec, pixels, codebooks, beam, tiling, progress)
    prices = choices.curve.prices()
    stops = [*prices[:: max(1, len(prices) // STOPS)], prices[-1]]

    def good(price: float) -> bool:
        return psnr_of(decode_tiled(codec, choices.tokens(price), tiling), pixels) >= psnr

    return choices.tokens(stops[min(bisect_left(stops, True, key=good), len(stops) - 1)])


def psnr_of(found: Pixels, wanted: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, row by row to save memory; infinite for equal pixels."""
    scale = np.iinfo(found.dtype).max, np.iinfo(wanted.dtype).max
    total = sum(float(np.square(a / scale[0] - b / scale[1]).mean()) for a, b in zip(found, wanted, strict=True))
    return float("inf") if total == 0 else -10 * np.log10(total / len(wanted))


class Choices:
    """What the cells of a picture may choose from: found once, for any number of rates.

    Arguments are those of `encode_to_bits`.

    Attributes:
        curve: Which price gives which rate.
    """

    def __init__(
        self,
        codec: ImageCodec,
        pixels: Pixels,
        codebooks: int | None = None,
        beam: int = 1,
        tiling: Tiling | None = None,
        progress: Progress | None = None,
    ) -> None:
        if codec.info.tile:
            raise ValueError("a tokenizer of fixed size has no cells that could have different numbers of codes")
        codec.check_codebooks(codebooks)
        self._codec, self._pixels, self._codebooks, self._beam, self._tiling = codec, pixels, codebooks, beam, tiling
        self._kept: list[Choice] | None = [] if np.prod(codec.grid(*pixels.shape[:2])) <= KEPT else None
        self.curve = Curve(codebooks or codec.info.codebooks)

        def look(z: Tensor) -> Tensor:
            choice = self._choice(z)
            self.curve.add(choice.hull)
            if self._kept is not None:
                self._kept.append(choice)
            return z

        self._places = [place for place, _ in visit(codec, pixels, look, tiling, progress)]

    def within(self, bits: float, measure: Callable[[Tokens], float]) -> Tokens:
        """Tokens for which `measure` gives at most so many bits; see `encode_to_bits`.

        A file's bits rise with those that the curve counts, nearly in proportion. So the next guess lies on the line
        between what is known to fit and not to fit; where that names no new price, the middle one is taken.
        """
        prices, aim = self.curve.prices(), (1 + CLOSE) / 2 * bits
        best, fits, exceeds = None, -1, len(prices)  # places among the prices
        low, high, asked = (0.0, 0.0), None, float(bits)  # bits counted and found there
        for tries in count(1):
            stop = self._stop(asked, prices)
            if not fits < stop < exceeds:
                stop = (fits + exceeds) // 2
            tokens = self.tokens(float(prices[stop]))
            point = self._counted(tokens), (found := measure(tokens))
            if found <= bits:
                best, fits, low = tokens, stop, point
            else:
                exceeds, high = stop, point
            if exceeds - fits == 1 or (best is not None and (tries >= PASSES or CLOSE * bits <= found <= bits)):
                break
            if high is None:
                asked = low[0] * aim / low[1]
            else:
                asked = low[0] + (high[0] - low[0]) * (aim - low[1]) / (high[1] - low[1])
        if best is None:
            raise ValueError(
                f"{bits:.0f} bits are too few: a file with one code for each cell takes {found:.0f}, which is"
                f" {found / np.prod(self._pixels.shape[:2]):.4g} bits per pixel; ask for that or more"
            )
        return best

    def tokens(self, price: float) -> Tokens:
        """Tokens at a price."""
        if self._kept is None:
            parts = visit(self._codec, self._pixels, lambda z: self._choice(z).codes(price), self._tiling)
        else:
            choices = zip(self._places, self._kept, strict=True)
            parts = ((place, choice.codes(price)) for place, choice in choices)
        return with_depth(assemble(self._codec, self._pixels.shape[:2], self._codebooks, parts))

    def _counted(self, tokens: Tokens) -> float:
        """Bits of codes and map of depths, as the curve counts them."""
        counts = torch.bincount(tokens.depth.flatten(), minlength=len(self.curve.counts))
        return sum(self._codec.info.bits(k) * n for k, n in enumerate(counts.tolist()) if n) + map_bits(counts)

    def _stop(self, bits: float, prices: Tensor) -> int:
        """The last of falling prices at which codes and map of depths take at most so many bits, or else the first."""
        try:
            return int((prices > self.curve.price_of_rate(bits, 1, "bits")).sum())
        except ValueError:
            return 0

    def _choice(self, z: Tensor) -> Choice:
        return Choice.of(self._codec, self._codec.paths(z, self._codebooks, self._beam), 1, None)
