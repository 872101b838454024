"""The bench of entropy coding measures real files and says what each codebook takes."""

import json

import numpy as np
import pytest
import soundfile
import torch
from toy_codec import ToyCodec, ToyConfig
from toy_image_codec import patches, toy

from zoo.bench_entropy import bench_entropy
from zoo.codecs.base import Tokens
from zoo.container_writer import write_picture
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
    every = codec.info.codebooks
    result = bench_entropy(codec, recordings, tmp_path / "out.json", codebooks=[1, every])
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert result["seconds_or_pixels"] == 1 and result["data"]["files"] == 2 and result["code_model_bytes"] == 0
    assert min(result["codec_seconds"].values()) > 0
    assert [rate["codebooks"] for rate in result["rates"]] == [1, every]
    for rate in result["rates"]:
        count = rate["codebooks"]
        assert [row["of"] for row in rate["bits"]] == [str(book + 1) for book in range(count)]
        assert [row["raw"] for row in rate["bits"]] == [np.log2(size) for size in codec.info.codebook_sizes[:count]]
        for row in rate["bits"]:
            assert row["raw"] > row["order 0"] > row["order 1"] > 0 and row["codes_per_cell"] == 1
        files = rate["files"]
        assert set(files) == {"none", "adaptive"}
        assert files["adaptive"]["kbps"] < 0.8 * files["none"]["kbps"]
        # 2000 frames of codes that take what the stages say, and what surrounds them in two files.
        coded = 2000 * sum(row["order 1"] for row in rate["bits"]) / 8
        assert coded < files["adaptive"]["bytes"] < coded + 150
        assert files["none"]["kbps"] == files["none"]["bytes"] * 8 / 1000


def test_a_trained_model_is_measured_where_there_is_one(recordings) -> None:
    codec = ToyCodec(ToyConfig())
    sound = torch.from_numpy(soundfile.read(recordings / "100.wav", dtype="float32")[0])[None, None]
    grid = codec.encode(sound).codes.numpy()[:, :, None]
    codec.code_model = train(codec.info.codebook_sizes, [(grid, None)], dim=4, steps=100, batch=64)
    result = bench_entropy(codec, recordings, codebooks=[codec.info.codebooks], clips=1)
    files, bits = result["rates"][0]["files"], result["rates"][0]["bits"]
    assert files["trained"]["bytes"] < files["adaptive"]["bytes"]
    assert all(row["trained"] < row["raw"] for row in bits)
    assert result["code_model_bytes"] == len(codec.code_model.pack())


def test_token_files_are_measured_with_their_depths(tmp_path) -> None:
    codec = toy()
    codes = codec.encode(patches(1, 32, 48)).codes
    count = codes.shape[1]
    depth = torch.arange(codes[0, 0].numel()).view(1, *codes.shape[2:]) % (count + 1)
    codes[0, torch.arange(count)[:, None, None] >= depth] = -1
    write_picture(tmp_path / "a.ztok", Tokens(codes, torch.tensor([[32, 48]]), None, "", "", depth), codec.info)
    (measured,) = bench_entropy(codec, tmp_path)["rates"]
    cells = depth.numel()
    assert [row["of"] for row in measured["bits"]] == ["depth", *(str(book + 1) for book in range(count))]
    used = [1, *(float((depth > book).sum()) / cells for book in range(count))]
    assert [row["codes_per_cell"] for row in measured["bits"]] == used
    assert measured["bits"][0]["raw"] == np.log2(count + 1)
    coded = cells * sum(row["order 1"] * row["codes_per_cell"] for row in measured["bits"]) / 8
    assert coded < measured["files"]["adaptive"]["bytes"] < coded + 100
