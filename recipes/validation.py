"""What validation looks at: media at several rates, how far each is from the original, and how codes are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.codecs.base import AudioCodec, Codec
from zoo.codecs.image.base import ImageCodec
from zoo.recipes import metrics, picture_metrics
from zoo.recipes.metrics import Score

SPEECH_METRICS = {
    "pesq": metrics.pesq_wb,
    "stoi": metrics.stoi,
    "si_sdr": metrics.si_sdr,
    "mel": metrics.mel_distance,
}
PICTURE_METRICS = {
    "psnr": picture_metrics.psnr,
    "ssim": picture_metrics.ssim,
    "ms_ssim": picture_metrics.ms_ssim,
    "contrast": picture_metrics.contrast,
}

Metric = Callable[[Tensor, Tensor], Score]


@dataclass
class Validated:
    """A batch after validation.

    Attributes:
        media: Reconstructions by label: "unquantized", or the number of codebooks.
        codes: At the most codebooks that were asked for; None without quantization.
        scores: By label and by metric, one of each row (audio: of each channel of each row).
    """

    media: dict[str, Tensor]
    codes: Int[Tensor, "batch codebook *grid"] | None
    scores: dict[str, dict[str, list[Score]]]


@torch.no_grad()
def validate_audio(
    codec: AudioCodec, target: Float[Tensor, "batch channel time"], codebooks: tuple[int, ...]
) -> Validated:
    """Audio at each number of codebooks. Codecs in training add no delay, so nothing is aligned."""
    scales = codec.scale_of(target)
    gain = 1.0 if scales is None else scales[:, None, None]  # `forward` takes audio at the codec's nominal level
    media = {"unquantized": codec(target / gain, quantize=False).media * gain}
    decoded, codes = _at_each_rate(codec, target, codebooks)
    media |= decoded
    rate = codec.info.sample_rate
    speech = {
        name: lambda real, fake, metric=metric: metric(real, fake, rate) for name, metric in SPEECH_METRICS.items()
    }
    scores = {label: _score(target.flatten(0, 1), output.flatten(0, 1), speech) for label, output in media.items()}
    return Validated(media, codes, scores)


@torch.no_grad()
def validate_pictures(
    codec: ImageCodec, target: Float[Tensor, "batch 3 height width"], codebooks: tuple[int, ...]
) -> Validated:
    """Pictures at each number of codebooks."""
    height, width = target.shape[2:]
    unit = codec.info.tile or codec.info.hop
    whole_cells = pad(target, (0, -width % unit, 0, -height % unit), mode="replicate")
    media = {"unquantized": codec(whole_cells, quantize=False).media[..., :height, :width].clamp(0, 1)}
    decoded, codes = _at_each_rate(codec, target, codebooks)
    media |= decoded
    return Validated(media, codes, {label: _score(target, output, PICTURE_METRICS) for label, output in media.items()})


class CodeHistogram:
    """Counts codes over a validation set, each codebook apart."""

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes
        self.counts: list[Tensor] = []

    def add(self, codes: Int[Tensor, "batch codebook *grid"]) -> None:
        """Count a batch; -1 is no code."""
        counts = [
            torch.bincount(level[level >= 0].flatten().cpu(), minlength=size)
            for level, size in zip(codes.unbind(1), self.sizes, strict=False)
        ]
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)] if self.counts else counts

    def take(self) -> dict[str, Score]:
        """Means over codebooks, which then start anew.

        `used`: share of the codes that occurred at all; `perplexity`: exp of the entropy of what occurred.
        """
        if not self.counts:
            return {}
        label = f"{len(self.counts)} codebooks"
        used = [float((count > 0).float().mean()) for count in self.counts]
        laws = [count / count.sum().clamp(min=1) for count in self.counts]
        perplexities = [math.exp(-float(torch.xlogy(law, law).sum())) for law in laws]
        self.counts = []
        return {
            f"used/{label}": Score(sum(used) / len(used)),
            f"perplexity/{label}": Score(sum(perplexities) / len(perplexities)),
        }


def _at_each_rate(codec: Codec, target: Tensor, codebooks: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor | None]:
    if not codebooks:
        return {}, None
    tokens = codec.encode(target, max(codebooks))
    return {f"{n} codebooks": codec.decode(tokens.first(n)) for n in codebooks}, tokens.codes


def _score(target: Tensor, output: Tensor, choice: Mapping[str, Metric]) -> dict[str, list[Score]]:
    pairs = list(zip(target.float().cpu(), output.float().cpu(), strict=True))
    return {name: [metric(real, fake) for real, fake in pairs] for name, metric in choice.items()}
