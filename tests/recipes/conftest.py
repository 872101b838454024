"""The smallest real thing for recipe tests: a linear codec with an EMA codebook, and noise to train it on."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from zoo.codecs.base import AudioCodec, CodecInfo, CodecOutput
from zoo.codecs.quantizers.base import Usage
from zoo.recipes.audio import AudioLosses, AudioRecipe
from zoo.recipes.losses.discriminators import DiscriminatorConfig

HOP, CODES, DIM = 40, 16, 8
SMALL_DISCRIMINATORS = DiscriminatorConfig(
    stft_sizes=(128,), stft_channels=4, periods=(2, 3), period_channels=(4, 8)
)  # fmt: skip
EVERY_LOSS = dict(
    mel=1.0,
    wave=0.1,
    noise=1.0,
    commitment=0.25,
    adversarial=0.2,
    features=0.2,
    mel_sizes=(256, 64),
    noise_sizes=(128,),
)


@dataclass(frozen=True)
class LinearConfig:
    levels: int = 2


class LinearCodec(AudioCodec):
    """Frames through one matrix each way, and residual codebooks that follow their vectors by EMA with restarts."""

    config_class = LinearConfig

    def __init__(self, config: LinearConfig = LinearConfig()):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = nn.Linear(HOP, DIM), nn.Linear(DIM, HOP)
        self.register_buffer("codebooks", torch.randn(config.levels, CODES, DIM) * 0.1)
        self.register_buffer("counts", torch.ones(config.levels, CODES))
        self.register_buffer("restarts", torch.zeros((), dtype=torch.int64))
        self.calls: list[tuple] = []

    @property
    def info(self) -> CodecInfo:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return CodecInfo("audio", 8000, 1, HOP, (CODES,) * self.config.levels, True, 0, parameters)

    def forward(self, media, codebooks=None, quantize=True) -> CodecOutput:
        self.calls.append((codebooks, quantize))
        z = self.encoder(media.unflatten(-1, (-1, HOP)))[:, 0].float()
        if not quantize:
            return CodecOutput(self._decode(z), z.new_zeros(()), None)
        rest, total, loss, used = z, torch.zeros_like(z), 0.0, []
        for level, codebook in enumerate(self.codebooks):
            codes = torch.cdist(rest, codebook).argmin(-1)
            used.append(torch.bincount(codes.flatten(), minlength=CODES) > 0)
            chosen = codebook[codes]
            loss = loss + (rest - chosen).square().mean()
            mask = 1.0 if not torch.is_tensor(codebooks) else (codebooks > level)[:, None, None].float()
            total = total + mask * (rest + (chosen - rest).detach())
            if self.training:
                self._learn(level, rest.detach().flatten(0, 1), codes.flatten())
            rest = rest - chosen.detach()
        share = torch.stack(used).float().mean(1)
        return CodecOutput(self._decode(total), loss, Usage(share, share, share, share))

    def _learn(self, level, vectors, codes):
        hits = torch.nn.functional.one_hot(codes, CODES).float()
        self.counts[level] = 0.9 * self.counts[level] + 0.1 * hits.sum(0)
        means = (hits.T @ vectors) / hits.sum(0).clamp(min=1)[:, None]
        self.codebooks[level] = torch.where(hits.any(0)[:, None], 0.9 * self.codebooks[level] + 0.1 * means,
                                            self.codebooks[level])  # fmt: skip
        dead = int(self.counts[level].argmin())
        self.codebooks[level, dead] = vectors[torch.randint(len(vectors), ())]  # random, so that resume must reseed
        self.restarts += 1

    def _decode(self, z):
        return self.decoder(z).flatten(1)[:, None]

    def encode_rows(self, media, codebooks, scales, search=None):
        rest, codes = self.encoder(media.unflatten(-1, (-1, HOP)))[:, 0], []
        for codebook in self.codebooks[:codebooks]:
            codes.append(torch.cdist(rest, codebook).argmin(-1))
            rest = rest - codebook[codes[-1]]
        return torch.stack(codes, 1), None

    def decode_rows(self, codes, scales):
        return self._decode(sum(self.codebooks[level][codes[:, level]] for level in range(codes.shape[1])))


class Tones(Dataset):
    """Row `index` is a pure function of it: a tone in noise."""

    def __init__(self, first: int, size: int, samples: int = 800):
        self.first, self.size, self.samples = first, size, samples

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.first + index)
        pitch, time = 0.05 + 0.3 * torch.rand((), generator=generator), torch.arange(self.samples)
        audio = 0.3 * torch.sin(pitch * time) + 0.01 * torch.randn(self.samples, generator=generator)
        return {"audio": audio[None]}


class TonesData(LightningDataModule):
    """Batches of 4 in a fixed order; after a resume they go on behind those that the steps so far have used."""

    def __init__(self, epoch: int = 400):
        super().__init__()
        self.epoch, self.seen = epoch, []

    def train_dataloader(self):
        first = 4 * self.trainer.global_step
        return DataLoader(Tones(first, self.epoch - first), batch_size=4)

    def val_dataloader(self):
        return DataLoader(Tones(10_000, 2, 4000), batch_size=1)


@pytest.fixture
def small():
    """Names of the small things, for tests that build their own runs."""

    def recipe(steps=40, seed=0, losses=(), **settings) -> AudioRecipe:
        torch.manual_seed(7)
        settings = {"discriminators": SMALL_DISCRIMINATORS} | settings
        return AudioRecipe(LinearCodec(), AudioLosses(**EVERY_LOSS | dict(losses)), steps=steps, seed=seed, **settings)

    return SimpleNamespace(recipe=recipe, codec=LinearCodec, data=TonesData, config=LinearConfig)
