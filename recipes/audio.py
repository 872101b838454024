"""How an audio codec is trained: distances of spectra, and speech metrics at validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.codecs.base import AudioCodec
from zoo.recipes.codec import CodecRecipe, Losses
from zoo.recipes.logging import show_clip
from zoo.recipes.losses.discriminators import DiscriminatorConfig, Discriminators
from zoo.recipes.losses.intelligibility import EnvelopeCorrelation
from zoo.recipes.losses.loudness import SIZE as SPEECH_SIZE
from zoo.recipes.losses.loudness import Disturbance
from zoo.recipes.losses.mel import MelDistance
from zoo.recipes.losses.spectra import Spectra, noise_to_signal
from zoo.recipes.validation import Validated, validate_audio


@dataclass(frozen=True)
class AudioLosses(Losses):
    """Weight of each loss, and their settings. A loss of weight 0 is not computed.

    Attributes:
        mel: Log-mel distance over `mel_sizes` windows, plus `mel_squared` times its root mean square.
        wave: Mean absolute difference of samples.
        loudness: Disturbance of PESQ (see `Disturbance`), at 16 kHz only.
        envelopes: Lost correlation of third-octave envelopes, as STOI measures it (see `EnvelopeCorrelation`).
        noise: Framewise |X - Y| / |X| of complex spectra over `noise_sizes` windows; frames below the amplitude
            `noise_floor` count little.
    """

    mel: float = 1.0
    wave: float = 0.0
    noise: float = 1.0
    loudness: float = 0.0
    envelopes: float = 0.0
    mel_sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    mel_squared: float = 0.0
    noise_sizes: tuple[int, ...] = (1024, 256)
    noise_floor: float = 1e-2


DISCRIMINATORS = DiscriminatorConfig()


class AudioRecipe(CodecRecipe):
    """Trains any `AudioCodec`; batches hold `audio`.

    Args:
        codec: What to train.
        losses: Their weights.
        discriminators: Which adversaries, if a loss needs them.
        schedule: The arguments of `CodecRecipe`.
    """

    losses: AudioLosses
    media = "audio"
    compared = ("mel", "wave", "noise", "loudness", "envelopes")

    def __init__(
        self,
        codec: AudioCodec,
        losses: AudioLosses = AudioLosses(),  # noqa: B008 (frozen)
        discriminators: DiscriminatorConfig = DISCRIMINATORS,
        **schedule: Any,
    ):
        info = codec.info
        judges = Discriminators(discriminators, info.channels) if losses.needs_discriminator else None
        super().__init__(codec, losses, judges, **schedule)
        sizes = (*losses.mel_sizes, *losses.noise_sizes)
        self.spectra = Spectra((*sizes, SPEECH_SIZE) if losses.loudness or losses.envelopes else sizes)
        self.disturbance = Disturbance(info.sample_rate) if losses.loudness else None
        self.envelopes = EnvelopeCorrelation(info.sample_rate, SPEECH_SIZE) if losses.envelopes else None
        self.mel = MelDistance(info.sample_rate, losses.mel_sizes, losses.mel_squared)

    def distances(self, real: Tensor, fake: Float[Tensor, "batch channel time"]) -> dict[str, Tensor]:
        """See `CodecRecipe.distances`."""
        weights, losses = self.losses, {}
        if weights.mel or weights.noise or weights.loudness or weights.envelopes:
            spectra = self.spectra(real, fake)
        if weights.mel:
            losses["mel"] = self.mel(spectra)
        if weights.wave:
            losses["wave"] = (real - fake).abs().mean()
        if weights.noise:
            ratios = [noise_to_signal(spectra[size], weights.noise_floor) for size in weights.noise_sizes]
            losses["noise"] = torch.stack(ratios).mean()
        if weights.loudness:
            losses["loudness"] = self.disturbance(spectra[SPEECH_SIZE])
        if weights.envelopes:
            losses["envelopes"] = self.envelopes(spectra[SPEECH_SIZE])
        return losses

    def validate(self, target: Float[Tensor, "batch channel time"], codebooks: tuple[int, ...]) -> Validated:
        """See `CodecRecipe.validate`."""
        return validate_audio(self.average.module, target, codebooks)

    def show(self, board: Any, name: str, media: Mapping[str, Tensor], first: bool) -> None:
        """Sound and spectrogram of each; the target, which never changes, only once."""
        for label, sound in media.items():
            if first or label != "target":
                show_clip(board, f"{name}/{label}", sound, self.codec.info.sample_rate, int(self.step))
