"""Pictures with edges, slopes and grain, and a small codec of each image architecture that answers to them."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

import zoo
from zoo.codecs.image.base import ImageCodec

# The smallest real thing of each architecture, in the variants that take other ways through its code.
SMALL_NETWORK = dict(width=8, multipliers=(1, 2, 2), blocks=1, attention=(4,), groups=4, latent=12)
SMALL_VQGAN = SMALL_NETWORK | dict(code_dim=6, codebook_size=64)
SMALL_COSMOS = dict(width=8, multipliers=(1, 2, 2), blocks=1, groups=4, latent=12, code_dim=3, levels=(5, 4, 4))
SMALL_TRANSFORMER = dict(width=16, blocks=2, heads=2, head_dim=8)
SMALL_TITOK = dict(
    tile=16, patch=4, latents=9, encoder=SMALL_TRANSFORMER, decoder=SMALL_TRANSFORMER, code_dim=6, codebook_size=64
)  # fmt: skip
SMALL_MIXTURE = dict(width=8, multipliers=(1, 2, 2), blocks=1, groups=4, code_dim=6, codebook_size=24)
TINY = {
    "vqgan": {
        "sphere": SMALL_VQGAN,
        "learned": SMALL_VQGAN | dict(codebook="learned", blocks=2, attention=(1, 2), quant_kernel=3),
        "average": SMALL_VQGAN | dict(codebook="average", multipliers=(1, 2), attention=(), middle_attention=False),
        "gumbel": SMALL_VQGAN | dict(codebook="gumbel"),
    },
    "ibq": {"plain": SMALL_VQGAN},
    "magvit2": {"plain": dict(width=8, multipliers=(1, 2, 2), blocks=1, groups=4, bits=7)},
    "cosmos": {
        "f8": SMALL_COSMOS,
        "f16": SMALL_COSMOS | dict(compression=16, blocks=2, attention=(2,)),
    },
    "titok": {
        "pixels": SMALL_TITOK,
        "codes": SMALL_TITOK | dict(head="codes", sphere=True, mixture=SMALL_MIXTURE),
    },
    "vit-vqgan": {
        "plain": dict(patch=4, encoder=SMALL_TRANSFORMER, decoder=SMALL_TRANSFORMER, code_dim=6, codebook_size=64),
    },
    "rqvae": {
        "shared": SMALL_VQGAN | dict(codebooks=3),
        "separate": SMALL_VQGAN | dict(codebooks=3, shared=False, kmeans_vectors=1000),
    },
    "var-vqvae": {
        "plain": SMALL_VQGAN | dict(quant_kernel=3, scales=(1, 2, 3, 5)),
    },
    "variable": {
        "plain": dict(
            widths=(8, 8, 8), blocks_down=(1, 1), blocks=1, blocks_up=(1, 1), latent=24,
            codebooks=5, codebook_size=64, kmeans_vectors=500,
        ),
    },
}  # fmt: skip


def pictures(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """`[batch, 3, height, width]` in [0, 1]: coloured patches of several sizes under a little noise."""
    source = torch.Generator().manual_seed(seed)
    media = 0.1 * torch.rand(batch, 3, height, width, generator=source)
    for size in (4, 9, 23):
        coarse = torch.rand(batch, 3, -(-height // size), -(-width // size), generator=source)
        media += 0.3 * interpolate(coarse, scale_factor=size, mode="nearest")[..., :height, :width]
    return media


def tiny(architecture: str, variant: str) -> ImageCodec:
    """A small codec in eval mode, whose codebooks have seen pictures if they learn by seeing.

    Its first weights are changed so that the picture outweighs the biases: as PyTorch draws them, convolutions shrink
    what passes through so much that every input would give one and the same output, to three digits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        codec = zoo.create(architecture, **TINY[architecture][variant])
        with torch.no_grad():
            for name, parameter in codec.named_parameters():
                if parameter.ndim == 4 and not parameter.any():
                    parameter.normal_(std=0.05)  # a residual block that begins as the identity
                elif parameter.ndim == 4 and parameter.shape[-1] > 1:  # not 1 x 1: attention would become too sharp
                    parameter *= 2
                elif name.endswith("bias"):
                    parameter *= 0.1
                elif name.endswith("ln_pre.weight"):
                    parameter *= 0.1  # TiTok's tokens begin alike in every picture
                elif ".transformer." in name and ".attn." in name and parameter.ndim == 2:
                    parameter *= 2  # and learn what is in it from each other
        unit = codec.info.tile or 16 * codec.info.hop
        for seed in range(3):
            codec.train()(pictures(4, unit, unit, seed))
    return codec.eval()
