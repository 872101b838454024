"""Objective quality of reconstructed pictures: each metric gives a `Score`, NaN with a reason where there is none.

Reference and estimate are float pictures `[channel, height, width]` in [0, 1]. PSNR, SSIM, MS-SSIM and the Fréchet
distance are those of torchmetrics.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from zoo.recipes.losses.contrast import ContrastDistance
from zoo.recipes.metrics import Score

Picture = Float[Tensor, "channel height width"]

SSIM_LEAST_SIDE = 11  # its window
MS_SSIM_LEAST_SIDE = 176  # the same window after four halvings
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + INCEPTION


def psnr(reference: Picture, estimate: Picture) -> Score:
    """Peak signal-to-noise ratio in dB over all channels."""
    reason = _unfit(reference, estimate)
    if reason:
        return Score(math.nan, reason)
    error = float((reference.double() - estimate.double()).square().mean())
    if error == 0:
        return Score(math.nan, "PSNR is infinite: the pictures are equal")
    return Score(-10 * math.log10(error))


def ssim(reference: Picture, estimate: Picture) -> Score:
    """Structural similarity (Wang et al. 2004), at most 1: Gaussian window of 11 pixels, mean over channels."""
    reason = _unfit(reference, estimate, SSIM_LEAST_SIDE)
    if reason:
        return Score(math.nan, reason)
    return Score(float(structural_similarity_index_measure(estimate[None], reference[None], data_range=1.0)))


def ms_ssim(reference: Picture, estimate: Picture) -> Score:
    """Structural similarity at five scales (Wang et al. 2003), at most 1."""
    reason = _unfit(reference, estimate, MS_SSIM_LEAST_SIDE)
    if reason:
        return Score(math.nan, reason)
    value = multiscale_structural_similarity_index_measure(estimate[None], reference[None], data_range=1.0)
    return Score(float(value))


def contrast(reference: Picture, estimate: Picture) -> Score:
    """Distance of pyramids normalised by local contrast (see `ContrastDistance`); 0 is no difference."""
    reason = _unfit(reference, estimate)
    if reason:
        return Score(math.nan, reason)
    return Score(float(_contrast_distance()(reference[None], estimate[None])))


class FrechetDistance(nn.Module):
    """Fréchet Inception Distance of two sets of pictures; it means little under some thousands of pictures.

    It needs the package torch-fidelity and the Inception weights that published figures belong to, in the cache of
    `torch.hub`. Nothing is downloaded: where either is missing, the score is NaN with the remedy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing = _missing_inception()
        self.distance = None
        if not self.missing:
            self.distance = FrechetInceptionDistance(normalize=True, feature_extractor_weights_path=str(_inception()))
            self.distance.requires_grad_(False)

    @torch.no_grad()
    def update(self, reference: Float[Tensor, "batch 3 h w"], estimate: Float[Tensor, "batch 3 h w"]) -> None:
        """Take in pictures in [0, 1]."""
        if self.distance is not None:
            self.distance.update(reference.clamp(0, 1), real=True)
            self.distance.update(estimate.clamp(0, 1), real=False)

    def take(self) -> Score:
        """The distance of all that came in; then start anew."""
        if self.distance is None:
            return Score(math.nan, self.missing)
        count = int(self.distance.fake_features_num_samples)
        if count < 2:
            return Score(math.nan, f"FID needs 2 pictures or more, got {count}")
        value = float(self.distance.compute())
        self.distance.reset()
        return Score(value)


def _inception() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION


def _missing_inception() -> str:
    """What the Fréchet distance lacks on this machine, and how to get it; "" if nothing."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return "FID needs the package torch-fidelity: pip install torch-fidelity"
    if not _inception().is_file():
        return f"FID needs Inception weights: fetch {INCEPTION_SOURCE} to {_inception()}"
    return ""


@lru_cache(maxsize=1)
def _contrast_distance() -> ContrastDistance:
    return ContrastDistance()


def _unfit(reference: Picture, estimate: Picture, least_side: int = 1) -> str:
    """Why no metric of the two exists; "" if there is one."""
    if reference.shape != estimate.shape:
        raise ValueError(f"reference is {list(reference.shape)}, estimate {list(estimate.shape)}: crop them alike")
    for name, picture in (("reference", reference), ("estimate", estimate)):
        if not torch.isfinite(picture).all():
            return f"{name} holds NaN or infinite values"
    if min(reference.shape[1:]) < least_side:
        return f"{reference.shape[2]} x {reference.shape[1]} pixels; at least {least_side} a side are needed"
    return ""
