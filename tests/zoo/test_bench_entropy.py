"""The bench of entropy coding measures real files and says what each codebook takes."""

import json

import numpy as np
import pytest
import soundfile
import torch
from toy_codec import ToyCodec, ToyConfig

from zoo.bench_entropy import bench_entropy
from zoo.entropy_training import train


@pytest.fixture
def recordings(tmp_path):
    """Two tones of half a second: their codes repeat."""
    folder = tmp_path / "sound"
    folder.mkdir()
    time = np.arange(4000) / 8000
    for pitch in (100, 250):
        soundfile.write(folder / f"{pitch}.wav", 0.5 * np.sin(2 * np.pi * pitch * time), 8000)
    return folder


def test_it_says_what_codes_take_in_every_way(recordings, tmp_path) -> None:
    codec = ToyCodec(ToyConfig())
    result = bench_entropy(codec, recordings, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert result["seconds_or_pixels"] == 1 and result["media"] == 2
    assert [row["raw"] for row in result["bits"]] == [np.log2(size) for size in codec.info.codebook_sizes]
    for row in result["bits"]:
        assert row["raw"] > row["order 0"] > row["order 1"] > 0
    files = result["files"]
    assert set(files) == {"none", "adaptive"}
    assert files["adaptive"]["kbps"] < 0.8 * files["none"]["kbps"]
    # 2000 frames of codes that take what the stages say, and what surrounds them in two files.
    coded = 2000 * sum(row["order 1"] for row in result["bits"]) / 8
    assert coded < files["adaptive"]["bytes"] < coded + 150
    assert files["none"]["kbps"] == files["none"]["bytes"] * 8 / 1000


def test_a_trained_model_is_measured_where_there_is_one(recordings) -> None:
    codec = ToyCodec(ToyConfig())
    sound = torch.from_numpy(soundfile.read(recordings / "100.wav", dtype="float32")[0])[None, None]
    grid = codec.encode(sound).codes.numpy()[:, :, None]
    codec.code_model = train(codec.info.codebook_sizes, [grid], dim=4, steps=100, batch=64)
    result = bench_entropy(codec, recordings, clips=1)
    assert result["files"]["trained"]["bytes"] < result["files"]["adaptive"]["bytes"]
    assert all(row["trained"] < row["raw"] for row in result["bits"])
