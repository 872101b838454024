"""The smallest true image codec: two convolutions on either side of a residual quantizer, whose reach is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.codecs.base import CodecInfo
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.quantizers import residual_vq

REACH = 2  # cells: one pixel and one cell, on either side


@dataclass(frozen=True)
class ToyImageConfig:
    hop: int = 4
    codebooks: int = 4
    codebook_size: int = 16
    norm: bool = False


class ToyImageCodec(ImageCodec):
    """Cells of `hop` pixels; with `norm` each half looks at the whole picture, as most published networks do."""

    config_class = ToyImageConfig

    def __init__(self, config: ToyImageConfig = ToyImageConfig()) -> None:  # noqa: B008
        super().__init__()
        self.config, dim = config, 6
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.fine = nn.Conv2d(3, dim, 3, padding=1)
            self.down = nn.Conv2d(dim, dim, config.hop, stride=config.hop)
            self.coarse = nn.Conv2d(dim, dim, 3, padding=1)
            self.back = nn.Conv2d(dim, dim, 3, padding=1)
            self.up = nn.ConvTranspose2d(dim, dim, config.hop, stride=config.hop)
            self.leave = nn.Conv2d(dim, 3, 3, padding=1)
            self.quantizer = residual_vq(dim, config.codebook_size, config.codebooks, kmeans_vectors=500)
        self.norms = nn.ModuleList(nn.GroupNorm(1, dim) if config.norm else nn.Identity() for _ in range(2))

    @property
    def info(self) -> CodecInfo:
        parameters = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return CodecInfo("image", 0, 3, self.config.hop, self.quantizer.codebook_sizes, False, None, parameters)

    def latents(self, media: Tensor) -> Tensor:
        return self.norms[0](self.coarse(torch.relu(self.down(torch.relu(self.fine(media - 0.5))))))

    def synthesise(self, z: Tensor) -> Tensor:
        return self.leave(torch.relu(self.up(self.norms[1](torch.relu(self.back(z.to(self.back.weight))))))) + 0.5


def toy(norm: bool = False) -> ToyImageCodec:
    """A toy codec in eval mode: trained for a moment, so that its pictures resemble what went in and seams would show.

    The codebooks start, by k-means, behind the training: they would follow it too slowly.
    """
    codec = ToyImageCodec(ToyImageConfig(norm=norm)).train()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-2)
    media = patches(4, 48, 48)
    for _ in range(100):
        loss = (codec(media, quantize=False).media - media).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        codec(media)
    return codec.eval()


def patches(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """`[batch, 3, height, width]` in [0, 1]: coloured patches of two sizes under a little noise."""
    source = torch.Generator().manual_seed(seed)
    media = 0.1 * torch.rand(batch, 3, height, width, generator=source)
    for size in (5, 17):
        coarse = torch.rand(batch, 3, -(-height // size), -(-width // size), generator=source)
        media += 0.45 * coarse.repeat_interleave(size, 2).repeat_interleave(size, 3)[:, :, :height, :width]
    return media
