"""What tests of codecs compare by: equal up to rounding, and equal codes unless two codewords are equally near."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.codecs.base import Codec


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to float32 rounding in sums of another order."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def assert_same_codes(codec: Codec, media: Tensor, found: Tensor, wanted: Tensor) -> None:
    """Equal codes; a cell may differ if, where it first does, both codewords are equally near to the latent.

    Cells are frames or places of the grid, row by row. Where codes do not stand for latents one by one, as with scales
    of different size, there are no ties to be told: nothing may differ.
    """
    assert found.shape == wanted.shape
    found, wanted = found.flatten(2), wanted.flatten(2)
    different = (found != wanted).any(dim=1).nonzero().tolist()
    assert len(different) <= found.shape[0] * found.shape[2] / 50, "too many cells for ties"
    for row, cell in different:
        level = int((found[row, :, cell] != wanted[row, :, cell]).nonzero()[0])
        with latents_of(codec) as seen:
            codec.encode(media[row : row + 1])
        latents = seen[0].movedim(1, -1).flatten(0, -2)
        where = f"row {row} cell {cell} level {level}"
        assert len(latents) == found.shape[2], f"{where}: no tie, codes are not of single latents"
        z = latents[cell].double()
        prefix = sum_of_codewords(codec, wanted[row, :level, cell])
        near, other = (sum_of_codewords(codec, codes[row, : level + 1, cell]) - prefix for codes in (found, wanted))
        residual = z - prefix
        gap = abs(float((residual - near).square().sum() - (residual - other).square().sum()))
        # Two roundings: the latent is off by d, which moves the gap by 2 d |near - other| (d: some tens of layers); and
        # distances are computed as |r|^2 - 2 r e + |e|^2, each to a relative 2^-24.
        rounding = torch.finfo(torch.float32).eps
        bound = 2 * 100 * rounding * float(z.norm() * (near - other).norm())
        bound += 4 * rounding * float(residual.square().sum() + near.square().sum() + other.square().sum())
        assert gap <= bound, f"{where}: no tie, gap {gap:.3g} > {bound:.3g}"


def sum_of_codewords(codec: Codec, codes: Tensor) -> Tensor:
    """Latent `[dim]` that the codes of one cell stand for."""
    if not len(codes):
        return torch.zeros(1, dtype=torch.float64)
    return codec.quantizer.decode(codes[None, :, None])[0, :, 0].double()


@contextmanager
def latents_of(codec: Codec) -> Iterator[list[Tensor]]:
    """What the quantizer is given to encode, call by call."""
    seen, encode = [], codec.quantizer.encode
    codec.quantizer.encode = lambda z, n=None: seen.append(z) or encode(z, n)
    try:
        yield seen
    finally:
        del codec.quantizer.encode
