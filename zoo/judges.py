"""Listeners that training does not know: learnt predictors of opinion scores, and a recogniser that counts lost words.

A codec may be trained on what PESQ and STOI measure; these tell whether it sounds better, too. They take seconds a
recording, work at 16 kHz, and their weights lie inside their packages: `pip install 'media-token-zoo[judges]'`.
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import soxr

from zoo.recipes.metrics import Score, Signal

RATE = 16000
INSTALL = "pip install 'media-token-zoo[judges]'"
MISSING = "package {} is missing: " + INSTALL


def dnsmos(reference: Signal, estimate: Signal, rate: int) -> Score:
    """DNSMOS P.835 (Reddy et al. 2022), overall quality of the estimate alone, 1 to 5."""
    return _opinion("dnsmos", "ovrl_mos", estimate, rate)


def plcmos(reference: Signal, estimate: Signal, rate: int) -> Score:
    """PLCMOS v2 (Diener et al. 2023), how little the estimate alone sounds like lost packets, 1 to 5."""
    return _opinion("plcmos", "plcmos", estimate, rate)


def word_errors(reference: Signal, estimate: Signal, rate: int) -> Score:
    """Word errors of PocketSphinx, which knows English, against what it understands of the reference; 0 is none."""
    if not np.any(np.asarray(reference)):
        return Score(math.nan, "reference is silent")
    try:
        spoken, understood = (_words(_at_16khz(signal, rate)) for signal in (reference, estimate))
    except ImportError:
        return Score(math.nan, MISSING.format("pocketsphinx"))
    if not spoken:
        return Score(math.nan, "the recogniser understands no word of the reference")
    return Score(_edits(spoken, understood) / len(spoken))


def errors_in_words(text: str, estimate: Signal, rate: int) -> tuple[int, int]:
    """Word errors of PocketSphinx against the text that was to be said, and the number of words in that.

    Raises:
        ImportError: PocketSphinx is not installed.
    """
    spoken = re.findall(r"[a-z']+", text.lower().replace("-", " "))
    return _edits(spoken, _words(_at_16khz(estimate, rate))), len(spoken)


def voice_of(signal: Signal, rate: int) -> np.ndarray:
    """Float32 `[256]` of length 1: whose voice this is, by Resemblyzer's encoder (Wan et al., arXiv 1710.10467).

    The cosine of two tells whether they are of one speaker.

    Raises:
        ImportError: Resemblyzer is not installed.
    """
    import resemblyzer

    encoder = _encoder(resemblyzer.VoiceEncoder)
    return encoder.embed_utterance(resemblyzer.normalize_volume(_at_16khz(signal, rate), -30, increase_only=False))


def listens() -> bool:
    """Whether the recogniser is installed."""
    return find_spec("pocketsphinx") is not None


JUDGES = {"dnsmos": dnsmos, "plcmos": plcmos, "word_errors": word_errors}


def _opinion(model: str, key: str, estimate: Signal, rate: int) -> Score:
    samples = _at_16khz(estimate, rate)
    if not np.isfinite(samples).all() or not samples.any():
        return Score(math.nan, "estimate is silent or not finite")
    try:
        import speechmos.dnsmos
        import speechmos.plcmos
    except ImportError as error:
        return Score(math.nan, MISSING.format(error.name or "speechmos"))
    # The models refuse samples beyond full scale.
    found = getattr(speechmos, model).run(samples / max(1.0, float(np.abs(samples).max())), RATE)
    return Score(float(found[key]))


def _at_16khz(signal: Signal, rate: int) -> np.ndarray:
    samples = np.asarray(signal, np.float32)
    return samples if rate == RATE else soxr.resample(samples, rate, RATE)


def _words(samples: np.ndarray) -> list[str]:
    """What the recogniser understands. It adapts to what it hears, so it starts each recording anew."""
    from pocketsphinx import Decoder

    decoder: Any = _decoder(Decoder)
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw((samples.clip(-1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr.split() if decoder.hyp() else []


@cache
def _encoder(kind: type) -> Any:
    return kind("cpu", verbose=False)


@cache
def _decoder(kind: type) -> Any:
    return kind(loglevel="FATAL")


def _edits(spoken: list[str], understood: list[str]) -> int:
    """Fewest insertions, deletions and replacements of words that turn one into the other (Levenshtein)."""
    costs = list(range(len(understood) + 1))
    for row, word in enumerate(spoken, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(understood, 1):
            best = min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other))
            diagonal, costs[column] = costs[column], best
    return costs[-1]
