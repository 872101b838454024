"""Split residual quantizer: semantic codebooks and an acoustic stack side by side on the same latents."""

from __future__ import annotations

from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.quantizers.base import Quantized, Quantizer, Usage
from zoo.codecs.quantizers.levels import check_codebooks, first_codebooks, used_levels
from zoo.codecs.quantizers.projected import ProjectedQuantizer


class SplitResidualVectorQuantizer(Quantizer):
    """The sum of two quantizers of the same latents, each between projections of its own (Defossez et al. 2024,
    "Moshi: a speech-text foundation model for real-time dialogue").

    What the semantic codebooks say is not taken from what the acoustic ones see, so that a recipe may teach the first
    ones to follow another network (through `semantic`) without an error that the others must carry. The semantic
    codebooks come first; `n` counts both. The loss is the mean over the codebooks in use. Dropout is that of the
    quantizers given: with some in the acoustic stack, training always keeps the semantic codebooks.

    Args:
        semantic: Quantizer with a `dim`, often a single codebook.
        acoustic: Quantizer with a `dim`, often a residual stack.
        dim: Size of a vector.
    """

    def __init__(self, semantic: Quantizer, acoustic: Quantizer, dim: int):
        super().__init__()
        self.semantic = ProjectedQuantizer(semantic, dim, bias=False)
        self.acoustic = ProjectedQuantizer(acoustic, dim, bias=False)
        self.dim, self.codebook_sizes = dim, (*semantic.codebook_sizes, *acoustic.codebook_sizes)

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`."""
        first, second = self._shares(n, len(z))
        semantic, acoustic = self.semantic(z, first), self.acoustic(z, second)
        codebooks = torch.stack([_in_use(semantic.codes), _in_use(acoustic.codes)])
        loss = (torch.stack([semantic.loss, acoustic.loss]) * codebooks).sum() / codebooks.sum().clamp(min=1)
        usage = [torch.cat([getattr(semantic.usage, f.name), getattr(acoustic.usage, f.name)]) for f in fields(Usage)]
        codes = torch.cat([semantic.codes, acoustic.codes], dim=1)
        return Quantized(semantic.z_q + acoustic.z_q, codes, loss, Usage(*usage))

    def encode(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None) -> Int[Tensor, "batch codebook *grid"]:
        """See `Quantizer.encode`."""
        first, second = self._shares(first_codebooks(n, len(self.codebook_sizes)), 1)
        codes = self.semantic.encode(z, int(first))
        return torch.cat([codes, self.acoustic.encode(z, int(second))], dim=1) if second else codes

    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """See `Quantizer.decode`."""
        check_codebooks(codes, len(self.codebook_sizes))
        border = len(self.semantic.codebook_sizes)
        z = self.semantic.decode(codes[:, :border])
        return z + self.acoustic.decode(codes[:, border:]) if codes.shape[1] > border else z

    def _shares(self, n: Int[Tensor, "batch"] | int | None, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """How many of the first `n` codebooks of each row are semantic and how many acoustic; None: not said."""
        if n is None:
            return None, None
        counts, border = used_levels(n, len(self.codebook_sizes), batch), len(self.semantic.codebook_sizes)
        return counts.clamp(max=border), (counts - border).clamp(min=0)


def _in_use(codes: Int[Tensor, "batch codebook *grid"]) -> Int[Tensor, ""]:
    """How many codebooks any vector used."""
    return (codes >= 0).movedim(1, 0).flatten(1).any(dim=1).sum()
