"""A picture codec whose rate varies from cell to cell: residual codes on 16 x 16 cells, beside a fixed transform.

As in transform coding, a linear path carries the strongest components of each cell (it begins as a cosine transform);
networks of plain 3 x 3 convolutions on both sides code what the transform cannot say: edges across cells, texture,
and what follows from the neighbours. ReLU and convolutions without norms are what CPUs train fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pixel_shuffle, pixel_unshuffle, relu

from zoo.codecs.image.base import ImageCodec
from zoo.codecs.quantizers import residual_vq

COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # grey, and two axes across it; orthogonal


@dataclass(frozen=True)
class VariableConfig:
    """Shape of a `VariableCodec`; the defaults are `variable.photos`.

    Attributes:
        encoder_widths, decoder_widths: Channels at a quarter, an eighth and a sixteenth of the resolution.
        encoder_blocks, decoder_blocks: Residual blocks at each.
        latent: Dimensions that are quantized.
        codebooks, codebook_size: Of the residual quantizer.
        kmeans_vectors: Latents that are gathered before the codebooks start by k-means.
        decay: Of the codebooks' moving averages. They must remember some 100,000 cells: with the 50,000 of a decay of
            .99, or with k-means on 16,000, codewords of 96 dimensions fit the cells of the day and cost .8 dB.
    """

    encoder_widths: tuple[int, int, int] = (64, 128, 192)
    encoder_blocks: tuple[int, int, int] = (1, 2, 2)
    decoder_widths: tuple[int, int, int] = (64, 128, 256)
    decoder_blocks: tuple[int, int, int] = (2, 4, 3)
    latent: int = 96
    codebooks: int = 24
    codebook_size: int = 1024
    kmeans_vectors: int = 100_000
    decay: float = 0.998


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity, which it begins as."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "batch width height _"]) -> Float[Tensor, "batch width height _"]:
        return x + self.second(relu(self.first(relu(x))))


class VariableEncoder(nn.Module):
    """Pictures in [-.5, .5] to latents on cells of 16 x 16 pixels."""

    def __init__(self, config: VariableConfig):
        super().__init__()
        fine, middle, coarse = config.encoder_widths
        self.enter = nn.Conv2d(3 * 16, fine, 3, padding=1)
        self.fine = stack(fine, config.encoder_blocks[0])
        self.to_middle = nn.Conv2d(4 * fine, middle, 1)
        self.middle = stack(middle, config.encoder_blocks[1])
        self.to_coarse = nn.Conv2d(4 * middle, coarse, 1)
        self.coarse = stack(coarse, config.encoder_blocks[2])
        self.leave = nn.Conv2d(coarse, config.latent, 1)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch latent down across"]:
        x = self.fine(self.enter(pixel_unshuffle(x, 4)))
        x = self.middle(self.to_middle(pixel_unshuffle(x, 2)))
        return self.leave(relu(self.coarse(self.to_coarse(pixel_unshuffle(x, 2)))))


class VariableDecoder(nn.Module):
    """Latents to pictures in [-.5, .5]."""

    def __init__(self, config: VariableConfig):
        super().__init__()
        fine, middle, coarse = config.decoder_widths
        self.enter = nn.Conv2d(config.latent, coarse, 3, padding=1)
        self.coarse = stack(coarse, config.decoder_blocks[2])
        self.to_middle = nn.Conv2d(coarse, 4 * middle, 1)
        self.middle = stack(middle, config.decoder_blocks[1])
        self.to_fine = nn.Conv2d(middle, 4 * fine, 1)
        self.fine = stack(fine, config.decoder_blocks[0])
        self.leave = nn.Conv2d(fine, 3 * 16, 3, padding=1)

    def forward(self, z: Float[Tensor, "batch latent down across"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.to_middle(relu(self.coarse(self.enter(z))))
        x = self.to_fine(relu(self.middle(pixel_shuffle(x, 2))))
        return pixel_shuffle(self.leave(relu(self.fine(pixel_shuffle(x, 2)))), 4)


class VariableCodec(ImageCodec):
    """Residual-VQ picture codec; `encode_at_rate` chooses the number of codes of each cell."""

    config_class = VariableConfig
    hop = 16

    def __init__(self, config: VariableConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = VariableEncoder(config), VariableDecoder(config)
        basis = cosine_basis(config.latent, 16)
        self.analysis, self.synthesis = nn.Parameter(basis.clone()), nn.Parameter(basis)
        self.quantizer = residual_vq(
            config.latent,
            config.codebook_size,
            config.codebooks,
            kmeans_vectors=config.kmeans_vectors,
            decay=config.decay,
        )
        with torch.no_grad():  # the networks begin as small corrections of the transform
            self.encoder.leave.weight.mul_(0.1)
            self.decoder.leave.weight.mul_(0.1)

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch latent down across"]:
        """See `ImageCodec.latents`."""
        x = media.contiguous(memory_format=torch.channels_last) - 0.5
        return conv2d(x, self.analysis, stride=16) + self.encoder(x)

    def synthesise(self, z: Float[Tensor, "batch latent down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        z = z.to(self.synthesis.dtype).contiguous(memory_format=torch.channels_last)
        return conv_transpose2d(z, self.synthesis, stride=16) + self.decoder(z) + 0.5


def stack(width: int, blocks: int) -> nn.Sequential:
    """So many residual blocks."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))


def cosine_basis(count: int, size: int) -> Float[Tensor, "count 3 size size"]:
    """The `count` components of a cell that matter most in photographs: low frequencies, grey before colour.

    Orthonormal. Variances of a cosine transform fall with the square of the frequency, and those along the two
    colour axes are about a tenth of that of grey.
    """
    position, frequency = torch.arange(size) + 0.5, torch.arange(size)
    cosines = torch.cos(math.pi / size * frequency[:, None] * position) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)
    colours = torch.nn.functional.normalize(torch.tensor(COLOURS))
    order = [
        ((1 if axis else 0.1) * (1 + down**2 + across**2), axis, down, across)
        for axis in range(3)
        for down in range(size)
        for across in range(size)
    ]
    chosen = sorted(order)[:count]
    return torch.stack(
        [colours[axis][:, None, None] * cosines[down][:, None] * cosines[across] for _, axis, down, across in chosen]
    )
