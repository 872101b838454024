"""What tokens with a depth must decode to: each cell's latent by hand, from its first codes only."""

from __future__ import annotations

from dataclasses import replace

import torch
from ties import close
from torch import Tensor

from zoo.codecs.base import Codec
from zoo.codecs.quantizers import GroupedResidualVectorQuantizer, ProjectedQuantizer, ResidualVectorQuantizer


def is_residual(codec: Codec) -> bool:
    """Whether the codec has a stack of codebooks whose codes add up."""
    quantizer = codec.quantizer
    quantizer = quantizer.inner if isinstance(quantizer, ProjectedQuantizer) else quantizer
    return isinstance(quantizer, ResidualVectorQuantizer | GroupedResidualVectorQuantizer)


def assert_depth_is_truncation(codec: Codec, media: Tensor) -> None:
    """Tokens whose cells use 0 to all codebooks decode as latents that are put together cell by cell."""
    tokens = codec.encode(media)
    count = tokens.codes.shape[1]
    source = torch.Generator().manual_seed(3)
    depth = torch.randint(0, count + 1, tokens.codes[:, 0].shape, generator=source)
    level = torch.arange(count).view(-1, *[1] * (tokens.codes.ndim - 2))
    cut = replace(tokens, codes=tokens.codes.masked_fill(level >= depth[:, None], -1), depth=depth)
    found, decode = codec.decode(cut), codec.quantizer.decode

    def by_hand(codes: Tensor) -> Tensor:
        used, z = (codes >= 0).sum(dim=1), torch.zeros_like(decode(codes))
        for k in range(1, count + 1):
            z = torch.where((used == k)[:, None], decode(codes[:, :k].clamp(min=0)), z)
        return z

    codec.quantizer.decode = by_hand
    try:
        close(found, codec.decode(replace(cut, depth=None)))
    finally:
        del codec.quantizer.decode
    assert not torch.allclose(found, codec.decode(tokens), atol=1e-3 * float(found.abs().max()))
