"""Metrics agree with their definitions and say why where they do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zoo.recipes.metrics import (
    Score,
    align,
    delay_of,
    mean_score,
    mel_distance,
    pesq_nb,
    pesq_wb,
    si_sdr,
    stoi,
)

RATE = 16000
METRICS = [pesq_wb, pesq_nb, stoi, si_sdr, mel_distance]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Three seconds of voiced bursts and pauses: enough activity for PESQ and STOI to accept it as speech."""
    time = np.arange(3 * RATE) / RATE
    voice = np.sin(2 * np.pi * 150 * time) + 0.5 * np.sin(2 * np.pi * 900 * time)
    breath = 0.3 * np.random.default_rng(0).standard_normal(len(time))
    return 0.1 * (voice + breath) * (np.sin(2 * np.pi * 1.5 * time) > 0)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return 0.01 * np.random.default_rng(1).standard_normal(3 * RATE)


@pytest.mark.parametrize("metric, best", [(pesq_wb, 4.64), (pesq_nb, 4.55), (stoi, 1.0), (mel_distance, 0.0)])
def test_a_perfect_copy_gets_the_best_score(metric, best, speech):
    assert metric(speech, speech, RATE).value == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_more_noise_scores_worse(metric, speech, noise):
    little, much = metric(speech, speech + noise, RATE).value, metric(speech, speech + 8 * noise, RATE).value
    assert (much > little) if metric is mel_distance else (much < little)


@pytest.mark.parametrize("metric", METRICS)
def test_tensors_and_arrays_score_alike(metric, speech, noise):
    arrays = metric(speech, speech + noise, RATE).value
    tensors = metric(torch.from_numpy(speech), torch.from_numpy(speech + noise), RATE).value
    assert tensors == pytest.approx(arrays)


@pytest.mark.parametrize("metric", [pesq_wb, pesq_nb, stoi, mel_distance])
@pytest.mark.parametrize("samples", [0, 1, 100])
def test_too_short_audio_gives_nan_and_a_reason(metric, samples, speech, noise):
    score = metric(speech[RATE // 4 :][:samples], (speech + noise)[:samples], RATE)
    assert math.isnan(score.value) and score.reason


@pytest.mark.parametrize("metric", METRICS)
def test_samples_that_are_not_finite_give_nan_and_a_reason(metric, speech):
    broken = speech.copy()
    broken[7] = np.nan
    score = metric(speech, broken, RATE)
    assert math.isnan(score.value) and "estimate holds NaN" in score.reason


@pytest.mark.parametrize("metric", [pesq_wb, pesq_nb, stoi, si_sdr])
def test_silence_gives_nan_and_a_reason(metric, speech):
    for pair, name in [((speech, 0 * speech), "estimate"), ((0 * speech, speech), "reference")]:
        score = metric(*pair, RATE)
        assert math.isnan(score.value) and score.reason == f"{name} is silent"


def test_stoi_of_a_third_of_a_second_is_not_the_floor_value_of_its_package(speech, noise):
    score = stoi(speech[:5500], (speech + noise)[:5500], RATE)
    assert math.isnan(score.value) and "too little speech" in score.reason


def test_pesq_refuses_audio_with_more_utterances_than_its_code_can_hold(speech):
    long = np.tile(speech, 8)
    score = pesq_wb(long, long, RATE)
    assert math.isnan(score.value) and "24.0 s" in score.reason


def test_pesq_takes_other_sample_rates(speech):
    assert pesq_wb(speech, speech, 48000).value == pytest.approx(4.64, abs=0.01)


def test_lengths_that_differ_are_an_error_and_not_a_guess(speech):
    with pytest.raises(ValueError, match="align"):
        stoi(speech, speech[:-1], RATE)
    with pytest.raises(ValueError, match="1-D"):
        stoi(speech[None], speech[None], RATE)


def test_si_sdr_is_the_energy_ratio_and_ignores_gain(speech):
    reference = speech - speech.mean()
    other = np.roll(reference[::-1], 5)
    other -= reference * (other @ reference) / (reference @ reference)  # orthogonal
    other *= np.linalg.norm(reference) / np.linalg.norm(other) / 10  # a tenth of the amplitude is -20 dB
    assert si_sdr(reference, 3 * (reference + other)).value == pytest.approx(20, abs=1e-3)
    assert "infinite" in si_sdr(speech, 0.5 * speech).reason


def test_mel_distance_of_twice_the_amplitude_is_the_logarithm_of_two(noise):
    assert mel_distance(noise, 2 * noise, RATE).value == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("delay", [-320, -1, 0, 57, 320])
def test_align_removes_a_delay_in_either_direction(delay, speech, noise):
    coded = speech + noise
    late = np.concatenate([np.zeros(delay), coded]) if delay > 0 else coded[-delay:]
    reference, estimate, found = align(speech, late, 400)
    assert found == delay == delay_of(torch.from_numpy(speech), late, 400)
    np.testing.assert_allclose(estimate - reference, noise[len(noise) - len(reference) :][: len(reference)], atol=1e-12)


def test_align_stays_within_the_given_shift_and_leaves_silence_alone(speech):
    late = np.concatenate([np.zeros(500), speech])
    assert abs(align(speech, late, 100)[2]) <= 100
    assert align(np.zeros(50), np.zeros(40), 10)[2] == 0


def test_the_mean_leaves_out_scores_that_do_not_exist_and_counts_them():
    assert mean_score([Score(1.0), Score(math.nan, "too short"), Score(3.0)]) == (2.0, 1)
    mean, missing = mean_score([Score(math.nan, "silent")])
    assert math.isnan(mean) and missing == 1
