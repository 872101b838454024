"""How many codes each cell of a picture of any size has, for a size of its file or for a quality.

The choice is that of `codecs.depth`, made tile by tile: first all tiles tell what their cells may choose from, then one
price holds for all of them. What a file really takes (header, entropy coding) is measured on the outcome, and the rate
that is asked of the codes corrected until that fits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from torch import Tensor

from zoo.codecs.base import Tokens
from zoo.codecs.depth import Choice, Curve, with_depth
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import Pixels
from zoo.codecs.image.tiling import Progress, Tiling, decode_tiled, encode_tiled, visit

KEPT = 1 << 14  # cells whose choices are remembered: each takes some kilobytes
CLOSE = 0.99  # of the bits that there are; nearer is not looked for
PASSES = 8  # at most, in looking for it
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
    choices = Choices(codec, pixels, codebooks, beam, tiling, progress)
    best, least, most, rate = None, 0.0, float("inf"), float(bits)
    tried: set[float] = set()
    for _ in range(PASSES):
        price = choices.price(rate)
        if price in tried:
            break
        tried.add(price)
        tokens = choices.tokens(price)
        found = measure(tokens)
        if found <= bits:
            best, least = tokens, rate
            if found >= CLOSE * bits:
                break
        else:
            most = rate
        rate *= bits / found
        if not least < rate < most:
            rate = (least + most) / 2
    if best is None:
        best = choices.tokens(choices.curve.prices()[0])
        if (found := measure(best)) > bits:
            raise ValueError(
                f"{bits:.0f} bits are too few: a file with one code for each cell takes {found:.0f}, which is"
                f" {found / np.prod(pixels.shape[:2]):.4g} bits per pixel; ask for that or more"
            )
    return best


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
    """What the cells of a picture may choose from.

    Attributes:
        curve: Which price gives which rate.
    """

    def __init__(
        self,
        codec: ImageCodec,
        pixels: Pixels,
        codebooks: int | None,
        beam: int,
        tiling: Tiling | None,
        progress: Progress | None,
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

        for _ in visit(codec, pixels, look, tiling, progress):
            pass

    def price(self, bits: float) -> float:
        """The price at which codes and map of depths take so many bits; that of the fewest codes if these take more."""
        try:
            return self.curve.price_of_rate(bits, 1, "bits")
        except ValueError:
            return float(self.curve.prices()[0])

    def tokens(self, price: float) -> Tokens:
        """Tokens at a price."""
        kept = iter(self._kept or ())
        search = lambda z, _: (self._choice(z) if self._kept is None else next(kept)).codes(price)  # noqa: E731
        return with_depth(encode_tiled(self._codec, self._pixels, self._codebooks, 1, search, self._tiling))

    def _choice(self, z: Tensor) -> Choice:
        return Choice.of(self._codec, self._codec.paths(z, self._codebooks, self._beam), 1, None)
