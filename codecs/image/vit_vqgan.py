"""ViT-VQGAN: a transformer on each side of one codebook, and no convolution but those that cut and join patches.

Yu et al. 2022, "Vector-quantized Image Modeling with Improved VQGAN". Details that the paper leaves open (fixed
positions, tanh between the products of a block) are those of the open reproduction, enhancing-transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from zoo.codecs.image.base import ImageCodec
from zoo.codecs.layers.transformer import BASE, SMALL, Block, TransformerShape, initialize, sinusoids
from zoo.codecs.quantizers import LearnedVectorQuantizer


@dataclass(frozen=True)
class ViTVQGANConfig:
    """The defaults are the base model.

    Attributes:
        patch: Pixels a side of a cell.
        encoder, decoder: Their transformers.
        code_dim, codebook_size: Of the codebook, whose codewords have length 1.
    """

    patch: int = 8
    encoder: TransformerShape = BASE
    decoder: TransformerShape = BASE
    code_dim: int = 32
    codebook_size: int = 8192

    @classmethod
    def small(cls) -> ViTVQGANConfig:
        """Small encoder, small decoder."""
        return cls(encoder=SMALL, decoder=SMALL)

    @classmethod
    def large(cls) -> ViTVQGANConfig:
        """Small encoder, large decoder."""
        return cls(encoder=SMALL, decoder=TransformerShape(1280, 32, 16))


class Transformer(nn.Module):
    """Cells that are told where they are, through all blocks and a last norm.

    Positions are sines of the row and the column, so a grid may have any size. Cells beyond the grid of the training
    pictures get positions that were never trained; how well that goes is for each checkpoint to say.
    """

    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.layers = nn.ModuleList(Block(shape, activation="tanh", qkv_bias=False) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, x: Float[Tensor, "batch down across width"]) -> Float[Tensor, "batch down across width"]:
        grid = x.shape[1:]
        x = x.flatten(1, 2) + sinusoids(*grid).to(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).unflatten(1, grid[:2])


class ViTVQGAN(ImageCodec):
    """One code a cell, for pictures of any size."""

    config_class: ClassVar[type] = ViTVQGANConfig
    config: ViTVQGANConfig
    quantizer: LearnedVectorQuantizer

    def __init__(self, config: ViTVQGANConfig | None = None):
        super().__init__()
        self.config = config = config or ViTVQGANConfig()
        self.hop = config.patch
        patch, narrow, wide = config.patch, config.encoder.width, config.decoder.width
        self.to_patch = nn.Conv2d(3, narrow, patch, stride=patch)
        self.encoder = Transformer(config.encoder)
        self.pre_quant = nn.Linear(narrow, config.code_dim)
        self.quantizer = LearnedVectorQuantizer(config.code_dim, config.codebook_size, sphere=True)
        self.post_quant = nn.Linear(config.code_dim, wide)
        self.decoder = Transformer(config.decoder)
        self.to_pixel = nn.ConvTranspose2d(wide, 3, patch, stride=patch)
        initialize(self)

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim down across"]:
        """See `ImageCodec.latents`."""
        return self.pre_quant(self.encoder(self.to_patch(media).movedim(1, -1))).movedim(-1, 1)

    def synthesise(self, z: Float[Tensor, "batch dim down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        cells = self.post_quant(z.movedim(1, -1).to(self.post_quant.weight.dtype))
        return self.to_pixel(self.decoder(cells).movedim(-1, 1))
