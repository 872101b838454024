"""Learnt listeners give scores that fall with noise, and say why where they can't."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import zoo
from zoo.evaluate import evaluate
from zoo.judges import JUDGES, _edits, dnsmos, word_errors
from zoo.registry import create

RATE = 16000
RECORDING = next((Path(zoo.__file__).parent / "assets").glob("*.flac"))


@pytest.fixture(scope="module")
def speech():
    return soundfile.read(RECORDING, dtype="float32")[0]


@pytest.fixture(scope="module")
def noisy(speech):
    return speech + 0.1 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)


@pytest.mark.slow  # DNSMOS compiles its features for 20 s
def test_every_judge_prefers_the_original_to_noise(speech, noisy):
    for name, judge in JUDGES.items():
        clean, dirty = judge(speech, speech, RATE).value, judge(speech, noisy, RATE).value
        assert dirty > clean if name == "word_errors" else dirty < clean - 0.3


def test_no_word_is_lost_in_the_original_at_any_rate(speech):
    assert word_errors(speech, speech, RATE).value == 0
    upsampled = soxr.resample(speech, RATE, 24000)
    assert word_errors(upsampled, upsampled, 24000).value == 0


@pytest.mark.slow  # noise keeps the recogniser busy for 20 s
def test_a_verdict_does_not_depend_on_what_was_heard_before(speech, noisy):
    first = word_errors(speech, noisy, RATE).value
    word_errors(noisy, noisy, RATE)
    assert word_errors(speech, noisy, RATE).value == first


def test_word_errors_count_edits():
    assert _edits("a b c d".split(), "a b c d".split()) == 0
    assert _edits("a b c d".split(), "a x c d e".split()) == 2
    assert _edits("a b c d".split(), []) == 4


def test_what_has_no_verdict_says_why(speech):
    silence = np.zeros(RATE, np.float32)
    assert math.isnan(dnsmos(speech[:RATE], silence, RATE).value)
    assert word_errors(silence, silence, RATE).reason == "reference is silent"


@pytest.mark.parametrize("name", JUDGES)
def test_a_missing_package_is_named_with_its_remedy(name, speech, monkeypatch):
    for package in ("pocketsphinx", "speechmos", "speechmos.dnsmos", "speechmos.plcmos"):
        monkeypatch.setitem(sys.modules, package, None)
    reason = JUDGES[name](speech, speech, RATE).reason
    assert "missing" in reason
    assert "media-token-zoo[judges]" in reason


@pytest.mark.slow
def test_evaluate_asks_them_of_the_codec_and_of_the_originals():
    codec = create("seanet", sample_rate=RATE, ratios=(4, 2), filters=4, dim=8, codebooks=2, codebook_size=32)
    result = evaluate(codec.eval(), RECORDING, [2], judges=True, processes=1, progress=False)
    (row,), (original,) = result["rows"], result["baselines"]
    assert original["system"] == "original"
    assert original["metrics"]["word_errors"]["mean"] == 0
    assert row["metrics"]["dnsmos"]["mean"] < original["metrics"]["dnsmos"]["mean"]
