"""TiTok: a picture of fixed size as a short line of codes, which stand for all of it and not for places in it.

Yu et al. 2024, "An Image is Worth 32 Tokens for Reconstruction and Generation". Larger pictures are cut into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.maskgit import CodeMixtureDecoder, MixtureShape
from zoo.codecs.layers.transformer import BASE, LARGE, Block, TransformerShape, initialize
from zoo.codecs.quantizers import LearnedVectorQuantizer


@dataclass(frozen=True)
class TiTokConfig:
    """The defaults are the model of 64 codes that predicts pixels, BL-64.

    Attributes:
        tile: Pixels a side of a picture.
        patch: Pixels a side of a patch.
        latents: Codes of a picture.
        encoder, decoder: Their transformers.
        code_dim, codebook_size: Of the codebook.
        sphere: Whether codes and latents have length 1.
        head: What the decoder predicts for each patch: its "pixels"; or, as in the paper's first models, which
            "codes" of MaskGIT's VQGAN it would have. Their mixture then goes through the decoder of that VQGAN.
        mixture: Shape of that decoder; a patch must have as many pixels as its cells.
    """

    tile: int = 256
    patch: int = 16
    latents: int = 64
    encoder: TransformerShape = BASE
    decoder: TransformerShape = LARGE
    code_dim: int = 64
    codebook_size: int = 8192
    sphere: bool = False
    head: Literal["pixels", "codes"] = "pixels"
    mixture: MixtureShape = MixtureShape()

    def __post_init__(self) -> None:
        if self.tile % self.patch:
            raise ValueError(f"tile must be a multiple of patch, got {self.tile} and {self.patch}")
        if self.head == "codes" and self.patch != self.mixture.hop:
            raise ValueError(f"the mixture's cells have {self.mixture.hop} pixels a side, a patch has {self.patch}")

    @classmethod
    def paper(cls, size: TransformerShape, latents: int) -> TiTokConfig:
        """The paper's L-32, B-64 and S-128 are these with (LARGE, 32), (BASE, 64) and (SMALL, 128)."""
        return cls(
            latents=latents, encoder=size, decoder=size, code_dim=12, codebook_size=4096, sphere=True, head="codes"
        )


class PictureTransformer(nn.Module):
    """A class token, one token for each patch and the latents, each with its learnt position, through all blocks."""

    def __init__(self, shape: TransformerShape, patches: int, latents: int):
        super().__init__()
        width, scale = shape.width, shape.width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + patches, width))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(latents, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(shape) for _ in range(shape.blocks))

    def forward(
        self, patches: Float[Tensor, "batch patch width"], latents: Float[Tensor, "batch latent width"]
    ) -> tuple[Float[Tensor, "batch patch width"], Float[Tensor, "batch latent width"]]:
        count = patches.shape[1]
        start = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([start, patches], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, latents + self.latent_token_positional_embedding], dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x)
        return x[:, 1 : 1 + count], x[:, 1 + count :]


class TiTokEncoder(PictureTransformer):
    """Pictures in [0, 1] to a line of latents: what the transformer makes of tokens that begin alike everywhere."""

    def __init__(self, config: TiTokConfig):
        super().__init__(config.encoder, (config.tile // config.patch) ** 2, config.latents)
        width = config.encoder.width
        self.scrambled = config.head == "codes"
        self.patch_embed = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.latent_tokens = nn.Parameter(width**-0.5 * torch.randn(config.latents, width))
        self.conv_out = nn.Conv2d(width, config.code_dim, 1)

    def forward(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim latent"]:
        patches = self.patch_embed(media).flatten(2).transpose(1, 2)
        _, latents = super().forward(patches, self.latent_tokens.expand(len(media), -1, -1))
        # The paper's models read the axes in the wrong order: each of their codes is made of all latents, of a few
        # features of each. Their weights need it so; the later ones, which predict pixels, do not have it.
        columns = latents.reshape(latents.shape[0], latents.shape[2], -1) if self.scrambled else latents.mT
        return self.conv_out(columns[..., None])[..., 0]


class TiTokDecoder(PictureTransformer):
    """A line of latents to a prediction for each patch, from mask tokens that look at them."""

    def __init__(self, config: TiTokConfig):
        self.side = config.tile // config.patch
        super().__init__(config.decoder, self.side**2, config.latents)
        width = config.decoder.width
        self.decoder_embed = nn.Linear(config.code_dim, width)
        self.mask_token = nn.Parameter(width**-0.5 * torch.randn(1, 1, width))
        self.head = CodesHead(width, config) if config.head == "codes" else PixelsHead(width, config.patch)

    def forward(self, z: Float[Tensor, "batch dim latent"]) -> Float[Tensor, "batch 3 height width"]:
        masks = self.mask_token.expand(len(z), self.side**2, -1)
        patches, _ = super().forward(masks, self.decoder_embed(z.mT))
        return self.head(rearrange(patches, "b (h w) c -> b c h w", h=self.side))


class PixelsHead(nn.Module):
    """Features of patches to their pixels, and a 3 x 3 convolution over the seams."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.patch = patch
        self.ffn = nn.Conv2d(width, 3 * patch**2, 1)
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch width down across"]) -> Float[Tensor, "batch 3 height width"]:
        pixels = rearrange(self.ffn(x), "b (y x c) h w -> b c (h y) (w x)", y=self.patch, x=self.patch)
        return self.conv_out(pixels)


class CodesHead(nn.Module):
    """Features of patches to shares of the codes of another codec, and pixels of these mixtures by its decoder."""

    def __init__(self, width: int, config: TiTokConfig):
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.mixture.codebook_size, 1)
        )
        self.pixel_decoder = CodeMixtureDecoder(config.mixture)

    def forward(self, x: Float[Tensor, "batch width down across"]) -> Float[Tensor, "batch 3 height width"]:
        return self.pixel_decoder(self.ffn(x).softmax(dim=1))


class TiTok(ImageCodec):
    """A few codes a picture, in no order."""

    config_class: ClassVar[type] = TiTokConfig
    config: TiTokConfig
    quantizer: LearnedVectorQuantizer

    def __init__(self, config: TiTokConfig | None = None):
        super().__init__()
        self.config = config = config or TiTokConfig()
        self.hop = self.tile = config.tile
        self.tile_codes = config.latents
        self.encoder, self.decoder = TiTokEncoder(config), TiTokDecoder(config)
        self.quantizer = LearnedVectorQuantizer(config.code_dim, config.codebook_size, config.sphere)
        initialize(self)

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim latent"]:
        """See `ImageCodec.latents`; pictures of `config.tile` pixels a side."""
        return self.encoder(media)

    def synthesise(self, z: Float[Tensor, "batch dim latent"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        return self.decoder(z.to(self.encoder.conv_out.weight.dtype))
