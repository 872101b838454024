"""Weights of a decoder as drawing reads them fastest."""

from __future__ import annotations

from typing import Any

from zoo.codecs.errors import UserError
from zoo.configs import suggestion
from zoo.decoders.fast import WEIGHTS, for_decoding, has_fbgemm


def packed(decoder: Any, weights: str) -> Any:
    """The decoder prepared for decoding on a CPU, its matrices in the type of that name; in place.

    Raises:
        UserError: No type has the name, or this processor or device does not compute in it.
    """
    if weights not in WEIGHTS:
        raise UserError(f"there are no weights {weights!r}{suggestion(weights, WEIGHTS)}")
    if next(decoder.parameters()).device.type != "cpu":
        if WEIGHTS[weights] is not None:
            raise UserError(f"weights of {weights} are for decoding on a CPU; leave them out")
        return decoder
    try:
        return for_decoding(decoder, WEIGHTS[weights])
    except ValueError as error:
        raise UserError(str(error)) from None


def fewest_bits(decoder: Any) -> str:
    """The type that a draft of this decoder is read fastest in: what it says is only a bet, which may be rounded."""
    return "float16" if has_fbgemm() and next(decoder.parameters()).device.type == "cpu" else "float32"
