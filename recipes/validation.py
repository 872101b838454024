"""What validation looks at: a clip at several rates, and how far each is from the original."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.codecs.base import AudioCodec
from zoo.recipes import metrics

METRICS = {
    "pesq": metrics.pesq_wb,
    "stoi": metrics.stoi,
    "si_sdr": metrics.si_sdr,
    "mel": metrics.mel_distance,
}


@torch.no_grad()
def reconstruct_at(
    codec: AudioCodec, media: Float[Tensor, "batch channel time"], codebooks: tuple[int, ...]
) -> dict[str, Float[Tensor, "batch channel time"]]:
    """Reconstructions by label: the number of codebooks, or "unquantized"."""
    scales = codec.scale_of(media)
    gain = 1.0 if scales is None else scales[:, None, None]  # `forward` takes audio at the codec's nominal level
    results = {"unquantized": codec(media / gain, quantize=False).media * gain}
    if codebooks:
        tokens = codec.encode(media, max(codebooks))
        results |= {f"{n} codebooks": codec.decode(tokens.first(n)) for n in codebooks}
    return results


def score(
    target: Float[Tensor, "batch channel time"], output: Float[Tensor, "batch channel time"], rate: int
) -> dict[str, list[metrics.Score]]:
    """Scores of each channel of each row, by metric. Codecs in training add no delay, so nothing is aligned."""
    pairs = list(zip(target.float().flatten(0, 1).cpu(), output.float().flatten(0, 1).cpu(), strict=True))
    return {name: [metric(real, fake, rate) for real, fake in pairs] for name, metric in METRICS.items()}
