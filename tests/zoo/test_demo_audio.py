"""The recording's part of the demo: which recording, how much of it, at which rates."""

import numpy as np
import pytest
import soundfile

import zoo
from zoo import demo_audio
from zoo.codecs.audio.io import open_audio
from zoo.recipes.data.debian_prompts import split_of


def test_bundled_recording_was_not_trained_on():
    with open_audio(demo_audio.RECORDING) as file:
        assert (file.rate, file.channels) == (16000, 1)
        assert split_of("en-allison", demo_audio.RECORDING.stem, file.frames / file.rate) == "test-seen"


def test_only_the_start_of_a_long_recording_is_taken_at_its_own_rate_and_channels(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (21 * 8000, 2))
    soundfile.write(tmp_path / "long.wav", noise, 8000)
    demo_audio.copy_start(tmp_path / "long.wav", tmp_path / "start.wav")
    start, rate = soundfile.read(tmp_path / "start.wav")
    assert (rate, start.shape) == (8000, (20 * 8000, 2))
    assert np.abs(start - noise[: len(start)]).max() < 1e-4  # 16 bits twice


@pytest.mark.parametrize(("codebooks", "rates"), [(1, [1]), (2, [1, 2]), (8, [1, 4, 8]), (16, [2, 8, 16])])
def test_the_rates_are_distinct_and_end_with_all_codebooks(codebooks, rates):
    small = dict(filters=2, dim=4, lstm_layers=0, norm="none", codebooks=codebooks, codebook_size=2)
    assert demo_audio.three_rates(zoo.create("seanet", **small)) == rates
