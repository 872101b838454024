"""Objective quality of reconstructed audio: each metric gives a `Score`, which is NaN with a reason if there is none.

Reference and estimate are 1-D numpy arrays or tensors of equal length; a codec's delay is removed first by `align`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
import torch
import torchaudio
from torch import Tensor

Signal = np.ndarray | Tensor

PESQ_WB_RATE = 16000
PESQ_NB_RATE = 8000
# The ITU code holds at most 50 utterances and writes behind its arrays when there are more; 50 need about 20 s.
PESQ_MAX_SECONDS = 20.0

FLOAT64_NOISE = 1e-25  # energy ratio that rounding alone makes

MEL_WINDOW_SECONDS = 0.064
MEL_HOP_SECONDS = 0.016
MEL_BANDS = 80
MEL_FLOOR = 1e-5


@dataclass(frozen=True)
class Score:
    """A metric's value, finite; or NaN and the reason why it could not be computed."""

    value: float
    reason: str = ""


def mean_score(scores: Iterable[Score]) -> tuple[float, int]:
    """Mean of the scores that exist (NaN if none does), and how many are NaN."""
    values = [score.value for score in scores]
    known = [value for value in values if not math.isnan(value)]
    return (sum(known) / len(known) if known else math.nan), len(values) - len(known)


def align(reference: Signal, estimate: Signal, max_shift: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Remove a delay of at most `max_shift` samples by cross-correlation.

    Returns:
        Reference and estimate, cut to the time that both cover, and the delay in samples (positive: estimate is late).
    """
    reference, estimate = _array(reference), _array(estimate)
    delay = delay_of(reference, estimate, max_shift)
    return *shift(reference, estimate, delay), delay


def delay_of(reference: Signal, estimate: Signal, max_shift: int) -> int:
    """Samples, within +-`max_shift`, by which the estimate is late; 0 if either is silent."""
    reference, estimate = _array(reference), _array(estimate)
    size = 1 << (len(reference) + len(estimate)).bit_length()
    spectrum = np.fft.rfft(estimate, size) * np.fft.rfft(reference, size).conj()
    correlation = np.fft.irfft(spectrum, size)
    shifts = sorted(range(-max_shift, max_shift + 1), key=abs)  # the smallest of equals wins
    return max(shifts, key=lambda lag: correlation[lag])


def shift(reference: Signal, estimate: Signal, delay: int) -> tuple[np.ndarray, np.ndarray]:
    """The pair without `delay` samples of lateness of the estimate, cut to the time that both cover."""
    reference, estimate = _array(reference)[max(0, -delay) :], _array(estimate)[max(0, delay) :]
    length = min(len(reference), len(estimate))
    return reference[:length], estimate[:length]


def pesq_wb(reference: Signal, estimate: Signal, rate: int) -> Score:
    """Wide-band PESQ (ITU-T P.862.2), 1.0 to 4.64; other rates are resampled to 16 kHz."""
    return _pesq(reference, estimate, rate, "wb", PESQ_WB_RATE)


def pesq_nb(reference: Signal, estimate: Signal, rate: int) -> Score:
    """Narrow-band PESQ (ITU-T P.862.1), 1.0 to 4.55, for codecs of 8 kHz; other rates are resampled to 8 kHz."""
    return _pesq(reference, estimate, rate, "nb", PESQ_NB_RATE)


def stoi(reference: Signal, estimate: Signal, rate: int) -> Score:
    """Short-time objective intelligibility, at most 1."""
    reference, estimate, reason = _checked(reference, estimate)
    if reason:
        return Score(math.nan, reason)
    try:
        from pystoi import stoi as compute
    except ImportError:
        return Score(math.nan, "package pystoi is missing: pip install 'media-token-zoo[eval]'")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            value = float(compute(reference, estimate, rate))
        except Exception as error:  # the package raises numpy's errors on inputs shorter than its first frames
            return Score(math.nan, f"STOI failed on {len(reference) / rate:.2f} s of audio: {error}")
    # It returns 1e-5, with a warning, when less than 30 frames (.38 s) of speech are left.
    if any("Not enough STFT frames" in str(warning.message) for warning in caught):
        return Score(math.nan, "too little speech for STOI: it needs .4 s that is not silent")
    return Score(value) if math.isfinite(value) else Score(math.nan, "STOI gave no finite value")


def si_sdr(reference: Signal, estimate: Signal, rate: int = 0) -> Score:
    """Scale-invariant signal-to-distortion ratio in dB, means removed; the rate plays no part."""
    reference, estimate, reason = _checked(reference, estimate)
    if reason:
        return Score(math.nan, reason)
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    target = reference * (estimate @ reference) / max(reference @ reference, np.finfo(float).tiny)
    signal, distortion = float(target @ target), float(np.square(estimate - target).sum())
    if distortion <= FLOAT64_NOISE * signal:
        return Score(math.nan, "SI-SDR is infinite: the estimate is the reference, but for its gain")
    if signal <= FLOAT64_NOISE * distortion:
        return Score(math.nan, "SI-SDR is minus infinite: the estimate holds nothing of the reference")
    return Score(10 * math.log10(signal / distortion))


def mel_distance(reference: Signal, estimate: Signal, rate: int) -> Score:
    """Mean absolute difference of natural-log mel magnitudes: 80 bands, Hann window of 64 ms, hop 16 ms, floor 1e-5."""
    reference, estimate, reason = _checked(reference, estimate, silence_allowed=True)
    if reason:
        return Score(math.nan, reason)
    pair = torch.from_numpy(np.stack([reference, estimate])).float()
    window = round(MEL_WINDOW_SECONDS * rate)
    if pair.shape[-1] < window:
        return Score(math.nan, f"too short for a mel distance: {pair.shape[-1]} samples, one window has {window}")
    spectrum = torch.stft(
        pair, window, round(MEL_HOP_SECONDS * rate), window=torch.hann_window(window), return_complex=True
    ).abs()
    mel = torch.einsum("sft,fm->smt", spectrum, _mel_filters(window // 2 + 1, rate))
    original, coded = mel.clamp(min=MEL_FLOOR).log()
    return Score(float((original - coded).abs().mean()))


def _pesq(reference: Signal, estimate: Signal, rate: int, mode: str, pesq_rate: int) -> Score:
    reference, estimate, reason = _checked(reference, estimate)
    if reason:
        return Score(math.nan, reason)
    try:
        from pesq import PesqError, pesq
    except ImportError:
        return Score(math.nan, "package pesq is missing: pip install 'media-token-zoo[eval]'")
    if len(reference) > PESQ_MAX_SECONDS * rate:
        return Score(math.nan, f"too long for PESQ: {len(reference) / rate:.1f} s, at most {PESQ_MAX_SECONDS:.0f} s")
    if rate != pesq_rate:
        reference, estimate = soxr.resample(np.stack([reference, estimate], 1), rate, pesq_rate).T
    pair = [np.ascontiguousarray(signal, dtype=np.float32) for signal in (reference, estimate)]
    try:
        value = float(pesq(pesq_rate, *pair, mode, on_error=PesqError.RAISE_EXCEPTION))
    except (PesqError, ValueError) as error:
        text = error.args[0] if error.args else type(error).__name__
        return Score(math.nan, f"PESQ failed: {text.decode() if isinstance(text, bytes) else text}")
    return Score(value) if math.isfinite(value) else Score(math.nan, "PESQ gave no finite value")


def _checked(reference: Signal, estimate: Signal, silence_allowed: bool = False) -> tuple[np.ndarray, np.ndarray, str]:
    """The two as float64 arrays, and why no metric of them exists ("" if it does)."""
    reference, estimate = _array(reference), _array(estimate)
    if reference.shape != estimate.shape:
        raise ValueError(f"reference has {len(reference)} samples, estimate {len(estimate)}: `align` them first")
    for name, signal in (("reference", reference), ("estimate", estimate)):
        if not len(signal):
            return reference, estimate, f"{name} is empty"
        if not np.isfinite(signal).all():
            return reference, estimate, f"{name} holds NaN or infinite samples"
        if not silence_allowed and not signal.any():
            return reference, estimate, f"{name} is silent"
    return reference, estimate, ""


def _array(signal: Signal) -> np.ndarray:
    """A 1-D float64 array of the signal."""
    array = signal.detach().cpu().double().numpy() if isinstance(signal, Tensor) else np.asarray(signal, np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected a 1-D signal, got shape {list(array.shape)}: score channels one by one")
    return array


@lru_cache(maxsize=8)
def _mel_filters(bins: int, rate: int) -> Tensor:
    return torchaudio.functional.melscale_fbanks(bins, 0.0, rate / 2, MEL_BANDS, rate)
