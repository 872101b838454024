"""Speech-like noise, and a small codec of each architecture whose codebooks know it."""

from __future__ import annotations

import torch

import zoo

# The smallest real thing of each architecture, in the variants that take other ways through its code.
SMALL_SEANET = dict(
    sample_rate=16000, ratios=(4, 2), filters=4, dim=8, codebooks=3, codebook_size=32, kmeans_vectors=200
)  # fmt: skip
TINY = {
    "spectral": {
        "plain": dict(
            window=32, stride=8, fine=12, fine_hidden=16, coarse=16, coarse_hidden=16, decoder_width=12,
            decoder_hidden=16, latent=8, codebooks=3, codebook_size=32, kmeans_vectors=200,
        ),
    },
    "seanet": {
        "lstm": SMALL_SEANET,
        "plain": SMALL_SEANET | dict(lstm_layers=0, pad="constant", norm="none"),
        "group": SMALL_SEANET | dict(channels=2, causal=False, norm="group", normalize=True),
    },
}  # fmt: skip


def noise(batch: int, channels: int, time: int, seed: int = 0) -> torch.Tensor:
    """`[batch, channel, time]`: noise that swells and fades, so that neighbouring frames differ."""
    source = torch.Generator().manual_seed(seed)
    swell = torch.sin(torch.arange(time) / 97.0) * 0.4 + 0.5
    return torch.randn(batch, channels, time, generator=source) * 0.2 * swell


def tiny(architecture: str, variant: str) -> torch.nn.Module:
    """A small codec in eval mode; k-means has put its codebooks where its latents lie.

    Its first weights are changed so that the signal outweighs the biases: as PyTorch draws them, convolutions shrink
    what passes through so much that every input would give one and the same output, to three digits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        codec = zoo.create(architecture, **TINY[architecture][variant])
        with torch.no_grad():
            for name, parameter in codec.named_parameters():
                if parameter.ndim == 3:  # a convolution's kernel, or the gain of one
                    parameter *= 2
                elif name.endswith("bias"):
                    parameter *= 0.1
        codec.train()(noise(4, codec.info.channels, 100 * codec.info.hop))
    return codec.eval()
