"""A picture codec whose rate varies from cell to cell: residual codes of a cosine transform, and a network behind.

The encoder is a transform of cells of 16 x 16 pixels and nothing else: latents that never move let codebooks see
millions of cells, and all training goes to the decoder. That turns the codes back to pixels and then repairs what the
quantizer did to them, looking across the borders of cells. Networks on the encoder's side, trained through the
quantizer for as long, gained nothing over this. ReLU and plain convolutions without norms are what CPUs train fastest.
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
CELL = 16


@dataclass(frozen=True)
class VariableConfig:
    """Shape of a `VariableCodec`; the defaults are `variable.photos`.

    Attributes:
        widths: Channels of the decoder at a quarter, an eighth and a sixteenth of the resolution.
        blocks_down, blocks_up: Residual blocks at a quarter and an eighth, on the way to the cells and back.
        blocks: Residual blocks at a sixteenth.
        latent: Components of the transform that are quantized.
        codebooks, codebook_size: Of the residual quantizer.
        kmeans_vectors: Latents that are gathered before the codebooks start by k-means.
        decay: Of the codebooks' moving averages. They must remember many cells: those of 16,000 cost .8 dB against
            those of 200,000, and those of 600,000 gain another .2 dB. With 512 cells in a step, this is a million.
    """

    widths: tuple[int, int, int] = (64, 128, 256)
    blocks_down: tuple[int, int] = (1, 2)
    blocks: int = 3
    blocks_up: tuple[int, int] = (2, 2)
    latent: int = 96
    codebooks: int = 24
    codebook_size: int = 1024
    kmeans_vectors: int = 600_000
    decay: float = 0.9995


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity, which it begins as."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "batch width height _"]) -> Float[Tensor, "batch width height _"]:
        return x + self.second(relu(self.first(relu(x))))


class Repair(nn.Module):
    """What is to be added to a picture that the transform alone decoded: a U-net down to the cells and back."""

    def __init__(self, config: VariableConfig):
        super().__init__()
        (fine, middle, coarse), (fine_down, middle_down) = config.widths, config.blocks_down
        fine_up, middle_up = config.blocks_up
        self.enter = nn.Conv2d(3 * 16, fine, 3, padding=1)
        self.fine_down, self.to_middle = stack(fine, fine_down), nn.Conv2d(4 * fine, middle, 1)
        self.middle_down, self.to_coarse = stack(middle, middle_down), nn.Conv2d(4 * middle, coarse, 1)
        self.latents = nn.Conv2d(config.latent, coarse, 1)
        self.coarse = stack(coarse, config.blocks)
        self.from_coarse, self.middle_up = nn.Conv2d(coarse, 4 * middle, 1), stack(middle, middle_up)
        self.from_middle, self.fine_up = nn.Conv2d(middle, 4 * fine, 1), stack(fine, fine_up)
        self.leave = nn.Conv2d(fine, 3 * 16, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Float[Tensor, "batch 3 height width"], z: Float[Tensor, "batch latent down across"]
    ) -> Float[Tensor, "batch 3 height width"]:
        fine = self.fine_down(self.enter(pixel_unshuffle(x, 4)))
        middle = self.middle_down(self.to_middle(pixel_unshuffle(fine, 2)))
        coarse = self.coarse(self.to_coarse(pixel_unshuffle(middle, 2)) + self.latents(z))
        middle = self.middle_up(middle + pixel_shuffle(self.from_coarse(relu(coarse)), 2))
        fine = self.fine_up(fine + pixel_shuffle(self.from_middle(relu(middle)), 2))
        return pixel_shuffle(self.leave(relu(fine)), 4)


class VariableCodec(ImageCodec):
    """Residual-VQ picture codec; `encode_at_rate` chooses the number of codes of each cell."""

    config_class = VariableConfig
    hop = CELL
    basis: Tensor
    deviations: Tensor

    def __init__(self, config: VariableConfig):
        super().__init__()
        self.config = config
        basis, variances = cosine_basis(config.latent, CELL)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("deviations", variances.sqrt().view(1, -1, 1, 1), persistent=False)
        self.quantizer = residual_vq(
            config.latent,
            config.codebook_size,
            config.codebooks,
            kmeans_vectors=config.kmeans_vectors,
            decay=config.decay,
        )
        self.repair = Repair(config)

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch latent down across"]:
        """See `ImageCodec.latents`."""
        with torch.autocast(media.device.type, enabled=False):  # codes must not depend on how a recipe rounds
            return conv2d(media.to(self.basis.dtype) - 0.5, self.basis, stride=CELL)

    def synthesise(self, z: Float[Tensor, "batch latent down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        z = z.to(self.basis.dtype).contiguous(memory_format=torch.channels_last)
        plain = conv_transpose2d(z, self.basis, stride=CELL)
        return 0.5 + plain + 0.25 * self.repair(4 * plain, z / self.deviations)


def stack(width: int, blocks: int) -> nn.Sequential:
    """So many residual blocks."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))


def cosine_basis(count: int, size: int) -> tuple[Float[Tensor, "count 3 size size"], Float[Tensor, "count"]]:
    """The `count` components of a cell that matter most in photographs: low frequencies, grey before colour.

    Orthonormal; with them, what their variances in photographs are about: those of a cosine transform fall with the
    square of the frequency, and those along the two colour axes are about a tenth of that of grey.
    """
    position, frequency = torch.arange(size) + 0.5, torch.arange(size)
    cosines = torch.cos(math.pi / size * frequency[:, None] * position) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)
    colours = torch.nn.functional.normalize(torch.tensor(COLOURS))
    order = [
        ((10 if axis else 1) * (1 + down**2 + across**2), axis, down, across)
        for axis in range(3)
        for down in range(size)
        for across in range(size)
    ]
    chosen = sorted(order)[:count]
    components = [
        colours[axis][:, None, None] * cosines[down][:, None] * cosines[across] for _, axis, down, across in chosen
    ]
    return torch.stack(components), torch.tensor([1 / weight for weight, *_ in chosen])
