"""VQGAN: a convolutional autoencoder of pictures around one codebook, and what its relatives share with it.

Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis"; codes on the unit sphere: Yu et al. 2022,
"Vector-quantized Image Modeling with Improved VQGAN", and Sun et al. 2024, "Autoregressive Model Beats Diffusion".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.codecs.image.base import ImageCodec
from zoo.codecs.layers.image import Downsample, Middle, Stage, Upsample, activation, normalization
from zoo.codecs.quantizers import GumbelQuantizer, LearnedVectorQuantizer, VectorQuantizer
from zoo.codecs.quantizers.base import Quantizer
from zoo.codecs.quantizers.levels import Level


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of encoder and decoder. The defaults are the f16 network that most of the family shares.

    Attributes:
        width: Channels at full resolution.
        multipliers: Channels of each resolution in units of `width`, fine to coarse; each but the last is followed by
            a halving, so that a cell has `2 ** (len(multipliers) - 1)` pixels a side.
        blocks: Residual blocks of each resolution in the encoder; the decoder has one more.
        attention: Where every residual block is followed by attention: at pictures this many times smaller than what
            enters the network.
        middle_attention: Attention between the two blocks in the middle of encoder and decoder.
        groups: Groups of channels that are normalised together.
        latent: Channels between the networks and the convolutions around the quantizer.
        code_dim: Size of a codeword.
        quant_kernel: Size of the two convolutions around the quantizer.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    middle_attention: bool = True
    groups: int = 32
    latent: int = 256
    code_dim: int = 8
    quant_kernel: int = 1

    def __post_init__(self) -> None:
        if not self.multipliers or self.blocks < 1:
            raise ValueError(f"multipliers must not be empty and blocks be 1 or more, got {self}")
        factors = [2**level for level in range(self.halvings + 1)]
        if strange := set(self.attention) - set(factors):
            raise ValueError(f"attention may stand at {factors}, got {sorted(strange)}")
        if any(self.width * multiplier % self.groups for multiplier in (1, *self.multipliers)):
            raise ValueError(f"width {self.width} times each multiplier must be a multiple of groups {self.groups}")
        if self.quant_kernel % 2 == 0:
            raise ValueError(f"quant_kernel must be odd, got {self.quant_kernel}")

    @property
    def channels(self) -> int:
        """Channels of what enters the encoder and leaves the decoder."""
        return 3

    @property
    def halvings(self) -> int:
        """How often the encoder halves, after its first resolutions, and the decoder doubles, after its first ones."""
        return len(self.multipliers) - 1

    @property
    def hop(self) -> int:
        """Pixels a side of a cell."""
        return 2**self.halvings


class Encoder(nn.Module):
    """Pictures in [-1, 1] to `latent` channels on cells."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        width = config.width
        self.conv_in = nn.Conv2d(config.channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            out = config.width * multiplier
            attention = 2 ** min(level, config.halvings) in config.attention
            stage = Stage(width, out, config.blocks, config.groups, attention)
            stage.downsample = Downsample(out) if level < config.halvings else nn.Identity()
            self.down.append(stage)
            width = out
        self.mid = Middle(width, config.groups, config.middle_attention)
        self.norm_out = normalization(width, config.groups)
        self.conv_out = nn.Conv2d(width, config.latent, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch latent down across"]:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage.downsample(stage(x))
        return self.conv_out(activation(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """`latent` channels on cells to pictures in [-1, 1]; stages are numbered fine to coarse, as in the encoder."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups, config.middle_attention)
        self.up = nn.ModuleList()
        for level, (width, coarser) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            doublings = max(0, level + 1 + config.halvings - len(widths))  # that are still to come
            stage = Stage(coarser, width, config.blocks + 1, config.groups, 2**doublings in config.attention)
            stage.upsample = Upsample(width) if doublings else nn.Identity()
            self.up.append(stage)
        self.norm_out = normalization(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def forward(self, z: Float[Tensor, "batch latent down across"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            x = stage.upsample(stage(x))
        return self.conv_out(activation(self.norm_out(x)))


class ConvolutionalCodec(ImageCodec):
    """The networks of VQGAN around any quantizer of `config.code_dim` dimensions."""

    config: NetworkConfig

    def __init__(self, config: NetworkConfig, quantizer: Quantizer):
        super().__init__()
        self.config, self.hop = config, config.hop
        kernel = {"kernel_size": config.quant_kernel, "padding": config.quant_kernel // 2}
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, **kernel)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, **kernel)
        self.quantizer = quantizer

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim down across"]:
        """See `ImageCodec.latents`."""
        media = media.contiguous(memory_format=torch.channels_last)  # what convolutions of few channels are fastest on
        return self.quant_conv(self.encoder(2 * media - 1))

    def synthesise(self, z: Float[Tensor, "batch dim down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        z = z.to(self.post_quant_conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        return (self.decoder(self.post_quant_conv(z)) + 1) / 2


@dataclass(frozen=True)
class VQGANConfig(NetworkConfig):
    """The defaults are LlamaGen's f16 tokenizer.

    Attributes:
        codebook: "sphere": codes and latents of unit length, learnt by gradients; "learned": codes anywhere, learnt by
            gradients; "average": moving averages; "gumbel": Gumbel-softmax.
        codebook_size: Number of codes.
    """

    codebook: Literal["sphere", "learned", "average", "gumbel"] = "sphere"
    codebook_size: int = 16384

    @classmethod
    def llamagen_f16(cls) -> VQGANConfig:
        """LlamaGen's VQ-16."""
        return cls()

    @classmethod
    def llamagen_f8(cls) -> VQGANConfig:
        """LlamaGen's VQ-8."""
        return cls(multipliers=(1, 2, 2, 4), attention=(8,))

    @classmethod
    def taming_f16(cls, codebook_size: int = 1024) -> VQGANConfig:
        """The ImageNet models of the first paper, of 1024 or 16384 codes."""
        return cls(code_dim=256, codebook="learned", codebook_size=codebook_size)


CODEBOOKS: dict[str, Callable[[int, int], Level]] = {
    "sphere": lambda dim, size: LearnedVectorQuantizer(dim, size, sphere=True),
    "learned": LearnedVectorQuantizer,
    "average": VectorQuantizer,
    "gumbel": GumbelQuantizer,
}


class VQGAN(ConvolutionalCodec):
    """One code a cell."""

    config_class: ClassVar[type] = VQGANConfig
    config: VQGANConfig

    def __init__(self, config: VQGANConfig | None = None):
        config = config or VQGANConfig()
        super().__init__(config, CODEBOOKS[config.codebook](config.code_dim, config.codebook_size))
