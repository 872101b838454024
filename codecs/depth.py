"""How many codebooks each cell or frame of a residual codec uses: more of them where they pay most.

If a cell used its first `n` codebooks, its latent would be off by a squared error `D(n)`, for `R(n)` bits. At a price,
a number for all cells of a picture or recording, each cell takes the `n` of least `D(n) + price * R(n)`. No other
choice of so many bits has a lower sum of errors (Shoham and Gersho 1988, "Efficient Bit Allocation for an Arbitrary
Set of Quantizers"). Only corners of the lower convex hull of a cell's `(R, D)` can win; they are found once, and then
the price that gives a rate, by bisection.

Rates count the codes and the map of depths. A code has the whole number of bits that its codebook needs, unless a
function says what it takes when entropy coded. The map has the bits of an adaptive model of its values' frequencies
alone (`map_bits`); a model that sees neighbours takes fewer.

Cells use at least one codebook, unless `least` is 0: then a cell may have no code at all and decodes as a latent of
zeros. That suits codecs whose latents are zero where nothing is; others were never trained for it, and sound or look
as they happen to.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf, log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.base import AudioCodec, Codec, Search, Tokens
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.quantizers.base import Paths, Spread

Bits = Callable[[Tensor], Tensor]
"""Bits `[batch, *grid]` of the codes `[batch, k, *grid]` of each cell."""


def encode_at_rate(
    codec: Codec,
    media: Float[Tensor, "batch channel *axes"],
    bpp: float | None = None,
    kbps: float | None = None,
    codebooks: int | None = None,
    lengths: Int[Tensor, "batch *_"] | None = None,
    beam: int = 1,
    least: int = 1,
    bits: Bits | None = None,
) -> Tokens:
    """Tokens of the lowest latent error at a rate; that of each row is its own, so that it depends on that row alone.

    Args:
        codec: A codec with a residual quantizer.
        media, lengths: See `Codec.encode`.
        bpp: Bits per pixel of each picture's true size, at most; as near below as its cells allow. For image codecs.
        kbps: Kilobits a second of each row, likewise. For audio codecs.
        codebooks: Use no more than the first so many (default: all).
        beam: See `Codec.encode`; each number of codebooks has a search of its own.
        least: 1, or 0 to allow cells without any code.
        bits: Entropy-coded bits of a cell's codes (default: the whole number of bits that each codebook needs).

    Returns:
        Tokens with `depth`.

    Raises:
        ValueError: No rate or one for the other kind of media, a rate that is too low for `least` codebooks in each
            cell, a number out of range, or a codec without a residual quantizer.
    """
    rate, units = (bpp, "bpp") if codec.info.media == "image" else (kbps, "kbps")
    if rate is None or (bpp is not None and kbps is not None):
        raise ValueError(f"a codec of {codec.info.media} needs a rate in {units} and no other, got {bpp=}, {kbps=}")

    def price(curve: Curve, _: Choice, row: Tensor) -> float:
        return curve.price_of_rate(rate, rate_unit(codec, row.shape[-2:]), units)

    return encode_at_prices(codec, media, price, codebooks, lengths, beam, least, bits)


def encode_at_quality(
    codec: ImageCodec,
    media: Float[Tensor, "batch 3 height width"],
    psnr: float,
    codebooks: int | None = None,
    lengths: Int[Tensor, "batch 2"] | None = None,
    beam: int = 1,
    least: int = 1,
    bits: Bits | None = None,
) -> Tokens:
    """Tokens of the lowest rate at which each picture comes back with that peak signal-to-noise ratio, in dB.

    Pictures that cannot get there use all codes that bring their latents nearer. Other arguments, result and errors
    are those of `encode_at_rate`.
    """

    def price(curve: Curve, choice: Choice, row: Tensor) -> float:
        def good(stop: int) -> bool:
            found = codec.decode_rows(choice.codes(float(prices[stop])), tuple(row.shape[-2:])).clamp(0, 1)
            return float((found - row).square().mean()) <= 10 ** (-psnr / 10)

        prices = curve.prices()
        return float(prices[min(bisect_left(range(len(prices)), True, key=good), len(prices) - 1)])

    return encode_at_prices(codec, media, price, codebooks, lengths, beam, least, bits)


def at_price(
    codec: Codec,
    price: float,
    codebooks: int | None = None,
    beam: int = 1,
    least: int = 1,
    bits: Bits | None = None,
) -> Search:
    """A search for `Codec.encode` and `AudioCodec.encode_chunk` that spends bits on each cell at one price.

    The price is squared error of latents for a bit; arguments are those of `encode_at_rate`. One price is about one
    quality, whatever the media; `price_of_stream` finds that of a rate. Give the tokens their depth by `with_depth`.
    """

    def search(z: Tensor, _: Tensor) -> Tensor:
        return Choice.of(codec, codec.paths(z, codebooks, beam), least, bits).codes(price)

    return search


def price_of_stream(
    codec: AudioCodec,
    chunks: Iterable[Float[Tensor, "row channel time"]],
    kbps: float,
    scales: Float[Tensor, "row"] | None = None,
    codebooks: int | None = None,
    beam: int = 1,
    least: int = 1,
    bits: Bits | None = None,
) -> float:
    """The price at which a recording that comes in chunks has a rate: the first of two passes, see `at_price`.

    Holds some hundred bytes for each frame. The price does not depend on how the recording is cut.

    Args:
        kbps: Of all rows together, at most.
        scales: Gains of the rows, for codecs that have them.

    Raises:
        ValueError: As `encode_at_rate`.
    """
    curve, state, samples, rest = Curve(codebooks or codec.info.codebooks), codec.init_encoder(scales), 0, None

    def take(chunk: Tensor, final: bool) -> None:
        nonlocal state
        z, state = codec.encode_chunk(chunk, state, final=final, search=lambda z, _: z)
        if z.shape[-1]:
            curve.add(Choice.of(codec, codec.paths(z, codebooks, beam), least, bits).hull)

    for chunk in chunks:
        samples, rest = samples + chunk.shape[-1], chunk[..., :0]
        take(chunk, False)
    if not samples:
        raise ValueError("a recording without samples has no rate; give at least one chunk that is not empty")
    take(rest, True)
    return curve.price_of_rate(kbps, rate_unit(codec, (1, samples)), "kbps")


def spread_at_rates(codec: Codec, budgets: Float[Tensor, "batch"]) -> Spread:
    """What `Codec.forward` takes as `codebooks`, to train at rates as `encode_at_rate` chooses them.

    Args:
        codec: A codec with a residual quantizer.
        budgets: Bits that each row may take, before entropy coding.
    """
    info = codec.info
    costs = torch.tensor([info.bits(k) if k else 0.0 for k in range(info.codebooks + 1)])

    def spread(errors: Float[Tensor, "batch levels *grid"]) -> Int[Tensor, "batch *grid"]:
        grid, cells = errors[:, 0].shape, errors[0, 0].numel()
        hull = convex_hull(errors.movedim(1, -1).flatten(0, -2).cpu(), costs, least=1)
        depths = []
        for row, budget in enumerate(budgets.tolist()):
            part = slice(row * cells, (row + 1) * cells)
            own = Hull(hull.depths[part], hull.bits[part], hull.prices[part])
            curve = Curve(info.codebooks)
            curve.add(own)
            depths.append(own.depth(curve.price_of_rate(budget, 1, "bits")))
        return torch.cat(depths).view(grid).to(errors.device)

    return spread


def with_depth(tokens: Tokens) -> Tokens:
    """The same tokens, with the number of codes of each cell as depth."""
    return replace(tokens, depth=(tokens.codes >= 0).sum(dim=1))


def encode_at_prices(
    codec: Codec,
    media: Tensor,
    price: Callable[[Curve, Choice, Tensor], float],
    codebooks: int | None,
    lengths: Tensor | None,
    beam: int,
    least: int,
    bits: Bits | None,
) -> Tokens:
    """Tokens at the price that a function gives for each row: of its curve, its choice and its media."""

    def search(z: Tensor, media: Tensor) -> Tensor:
        paths, codes = codec.paths(z, codebooks, beam), []
        for index in range(len(z)):
            row = Paths([part[index : index + 1] for part in paths.codes], paths.errors[index : index + 1])
            choice, curve = Choice.of(codec, row, least, bits), Curve(codebooks or codec.info.codebooks)
            curve.add(choice.hull)
            codes.append(choice.codes(price(curve, choice, media[index])))
        return torch.cat(codes)

    return with_depth(codec.encode(media, codebooks, lengths, search=search))


def rate_unit(codec: Codec, size: tuple[int, int]) -> float:
    """Bits that media of so many samples, or height and width, have at a rate of 1 kbps or 1 bpp."""
    return size[0] * size[1] if codec.info.media == "image" else 1000 * size[1] / codec.info.sample_rate


@dataclass(frozen=True)
class Hull:
    """Lower convex hulls of the errors of cells over their bits, corner by corner from the fewest bits on.

    Attributes:
        depths: int64, number of codebooks at each corner; a cell of few corners repeats its last.
        bits: float64, those of the codes.
        prices: float64, how much each bit of the step to the corner reduces the error: falling along a row, infinite
            for the first corner, 0 where there is no more step.
    """

    depths: Int[Tensor, "cell corner"]
    bits: Float[Tensor, "cell corner"]
    prices: Float[Tensor, "cell corner"]

    def depth(self, price: float) -> Int[Tensor, "cell"]:
        """Number of codebooks of each cell when a bit must reduce the error by `price` (above 0) at least."""
        corner = (self.prices >= price).sum(dim=1, keepdim=True) - 1
        return self.depths.gather(1, corner)[:, 0]


def convex_hull(errors: Float[Tensor, "cell depth"], bits: Float[Tensor, "cell depth"], least: int) -> Hull:
    """From `least` codebooks on, always the step on which the error falls most for a bit; of equal ones the longest."""
    errors, bits = errors.double(), bits.double().expand(errors.shape)
    index = torch.arange(errors.shape[1], device=errors.device)
    here = torch.full_like(errors[:, :1], least, dtype=torch.int64)
    corners, prices = [here], [torch.full_like(errors[:, :1], inf)]
    for _ in range(least, errors.shape[1] - 1):
        falls = (errors.gather(1, here) - errors) / (bits - bits.gather(1, here)).clamp(min=1e-9)
        falls = torch.where(index > here, falls, 0).clamp(min=0)
        steepest = falls.amax(dim=1, keepdim=True)
        farthest = torch.where(falls == steepest, index, 0).amax(dim=1, keepdim=True)
        here = torch.where(steepest > 0, farthest, here)
        corners.append(here)
        prices.append(torch.minimum(steepest, prices[-1]))  # rounding must not turn their order round
    depths = torch.cat(corners, dim=1)
    return Hull(depths, bits.gather(1, depths), torch.cat(prices, dim=1))


@dataclass(frozen=True)
class Choice:
    """What the cells of some rows may choose from, cells in order of row and place."""

    paths: Paths
    hull: Hull

    @classmethod
    def of(cls, codec: Codec, paths: Paths, least: int, bits: Bits | None) -> Choice:
        """The choice between numbers of codebooks from `least` on; see `encode_at_rate`."""
        if least not in (0, 1):
            raise ValueError(f"least must be 0 or 1 codebook for each cell, got {least}")
        errors = paths.errors.movedim(1, -1).flatten(0, -2)
        costs = torch.zeros_like(errors)
        for k, codes in enumerate(paths.codes[1:], 1):
            costs[:, k] = codec.info.bits(k) if bits is None else bits(codes).flatten()
        return cls(paths, convex_hull(errors, costs, least))

    def codes(self, price: float) -> Int[Tensor, "batch codebook *grid"]:
        """Codes at a price, -1 behind each cell's depth."""
        return self.paths.at(self.hull.depth(price).view(self.paths.errors[:, 0].shape))


class Curve:
    """Which price gives which rate, over all cells that were added.

    Args:
        codebooks: How many there are; depths are 0 to that.
    """

    def __init__(self, codebooks: int):
        self.counts = torch.zeros(codebooks + 1, dtype=torch.int64)  # depths of cells that take no step
        self.bits = 0.0
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # price, bits, depth before and after

    def add(self, hull: Hull) -> None:
        """Take in more cells."""
        self.counts += torch.bincount(hull.depths[:, 0].cpu(), minlength=len(self.counts))
        self.bits += float(hull.bits[:, 0].sum())
        taken = hull.prices[:, 1:] > 0
        self.steps.append(
            (
                hull.prices[:, 1:][taken].float().cpu(),
                hull.bits.diff(dim=1)[taken].float().cpu(),
                hull.depths[:, :-1][taken].short().cpu(),
                hull.depths[:, 1:][taken].short().cpu(),
            )
        )

    def prices(self) -> Float[Tensor, "stop"]:
        """Falling prices between which lie those of all steps: from none of the steps to all of them."""
        return self._stops()[0]

    def price_of_rate(self, rate: float, unit: float, units: str) -> float:
        """The lowest of `prices` with a rate of at most `rate`, where 1 means `unit` bits.

        Raises:
            ValueError: A rate below that of no step at all.
        """
        prices, taken, (_, bits, before, after) = self._stops()
        totals = torch.cat([torch.zeros(1, dtype=torch.float64), bits.double().cumsum(0)])

        def rate_at(stop: int) -> float:
            steps, values = int(taken[stop]), len(self.counts)
            moved = torch.bincount(after[:steps], minlength=values) - torch.bincount(before[:steps], minlength=values)
            return (self.bits + float(totals[steps]) + map_bits(self.counts + moved)) / unit

        fitting = bisect_right(range(len(prices)), False, key=lambda stop: rate_at(stop) > rate)
        if not fitting:
            raise ValueError(
                f"a rate of {rate:g} {units} is too low: the fewest codes of every cell and the map of depths take"
                f" {rate_at(0):.4g} {units}; ask for that or more"
            )
        return float(prices[fitting - 1])

    def _stops(self) -> tuple[Float[Tensor, "stop"], Int[Tensor, "stop"], tuple[Tensor, ...]]:
        """Prices between those of steps, the number of steps above each, and the steps in falling order of price."""
        steps = tuple(torch.cat(column) for column in zip(*self.steps, strict=True))
        order = steps[0].argsort(descending=True, stable=True)
        steps = tuple(column[order] for column in steps)
        price = steps[0].double()
        if not len(price):
            return torch.ones(1), torch.zeros(1, dtype=torch.int64), steps
        ends = (price.diff() < 0).nonzero().flatten() + 1  # steps of one price are taken together
        prices = torch.cat([2 * price[:1], (price[ends - 1] + price[ends]) / 2, price[-1:] / 2])
        return prices, torch.cat([ends.new_zeros(1), ends, ends.new_tensor([len(price)])]), steps


def map_bits(counts: Int[Tensor, "value"]) -> float:
    """Bits of a map in which each value is found so often, whatever the order.

    They are those of an adaptive model that starts with half a count for each value (Krichevsky and Trofimov 1981, "The
    Performance of Universal Encoding").
    """
    counts = counts.double()
    half = torch.full_like(counts, 0.5)
    nats = (half.lgamma() - (counts + half).lgamma()).sum() + (counts + half).sum().lgamma() - half.sum().lgamma()
    return float(nats) / log(2)
