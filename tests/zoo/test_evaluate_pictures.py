"""Pictures are judged by whole files, beside classical codecs at the same bits."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from small_image_codecs import tiny
from toy_image_codec import ToyImageCodec, ToyImageConfig
from toy_image_codec import toy as toy_image_codec

import zoo
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_pixels
from zoo.codecs.image.rate import psnr_of
from zoo.evaluate_pictures import METRICS, evaluate_pictures, round_trips, settings_of
from zoo.photographs import centre_square, photographs
from zoo.picture_baselines import Coder
from zoo.recipes.picture_metrics import psnr


def scene(side=192, seed=0):
    """A picture with slopes, edges and a little texture."""
    down, across = np.mgrid[:side, :side] / side
    waves = np.stack([down, across, 0.5 + 0.5 * np.sin(9 * down + 5 * across * (seed + 1))], 2)
    waves[(down - 0.5) ** 2 + (across - 0.4) ** 2 < 0.05] = (0.9, 0.2, 0.1)
    noise = np.random.default_rng(seed).normal(0, 0.02, waves.shape)
    return ((waves + noise).clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        Image.fromarray(scene(seed=seed)).save(root / f"{seed}.png")
    return root


def test_a_coder_at_the_bits_of_a_quality_has_the_scores_of_that_quality():
    picture = scene()
    coder = Coder(picture, "JPEG", {"psnr": psnr})
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=40, optimize=True)
    decoded = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1) / 255
    wanted = psnr(torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255, decoded).value
    assert coder.at_bits(8 * len(buffer.getvalue()))["psnr"].value == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "AVIF"])
def test_more_bits_give_better_scores(kind):
    coder = Coder(scene(), kind, METRICS)
    rates = [coder.bits(quality) for quality in (20, 50, 80)]
    scores = [coder.at_bits(bits) for bits in rates]
    assert scores[0]["psnr"].value < scores[1]["psnr"].value < scores[2]["psnr"].value
    assert scores[0]["contrast"].value > scores[2]["contrast"].value
    between = coder.at_bits((rates[0] + rates[1]) // 2)["psnr"].value
    assert scores[0]["psnr"].value < between < scores[1]["psnr"].value


def test_webp_reaches_its_lowest_rate_at_quality_0():
    coder = Coder(scene(), "WebP", {"psnr": psnr})
    assert coder.bits(0) < coder.bits(1)
    assert not math.isnan(coder.at_bits(coder.bits(0))["psnr"].value)


def test_a_rate_that_a_format_cannot_reach_has_no_score_and_says_why():
    coder = Coder(scene(), "JPEG", {"psnr": psnr})
    score = coder.at_bits(100)["psnr"]
    assert math.isnan(score.value)
    assert "smallest JPEG" in score.reason


@pytest.fixture(scope="module")
def codec():
    return toy_image_codec()


@pytest.fixture(scope="module")
def result(codec, folder):
    """Two numbers of codebooks and a rate that the lower one is under, beside classical codecs."""
    return evaluate_pictures(codec, folder, bpps=[0.3], codebooks=[3, 1], progress=False)


def test_rows_are_of_whole_files_and_baselines_have_their_bits(result, codec, folder, tmp_path):
    assert [row["setting"] for row in result["rows"]] == ["0.3 bpp", "1 codebook", "3 codebooks"]
    low, high = result["rows"][1:]
    assert low["bpp"]["file"] < high["bpp"]["file"]
    assert low["metrics"]["psnr"]["mean"] < high["metrics"]["psnr"]["mean"]
    bits = [
        8 * zoo.tokenize(folder / name, tmp_path / "a.ztok", codec, codebooks=3)["bytes"] for name in ("0.png", "1.png")
    ]
    assert high["bpp"]["file"] == pytest.approx(sum(bits) / 2 / 192**2, abs=1e-4)
    assert {row["family"] for row in result["baselines"]} == {"JPEG", "WebP", "AVIF"}
    for row in result["baselines"]:
        (ours,) = [one for one in result["rows"] if one["setting"] == row["setting"]]
        assert row["bpp"] == ours["bpp"]
        assert row["metrics"]["psnr"]["clips"] + row["metrics"]["psnr"]["missing"] == 2


def test_files_take_the_rate_asked_for_to_a_hundredth_as_tokenize_makes_them(result, codec, folder, tmp_path):
    row = result["rows"][0]
    facts = [zoo.tokenize(folder / name, tmp_path / "a.ztok", codec, bpp=0.3) for name in ("0.png", "1.png")]
    assert all(0.99 * 0.3 <= one["bpp"] <= 0.3 for one in facts)
    assert row["bpp"]["file"] == pytest.approx(sum(one["bpp"] for one in facts) / 2, abs=1e-4)


def test_scores_are_those_of_what_reconstruct_writes(result, codec, folder, tmp_path):
    found = []
    for name in ("0.png", "1.png"):
        zoo.tokenize(folder / name, tmp_path / "a.ztok", codec, bpp=0.3)
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", codec)
        found.append(psnr_of(read_pixels(tmp_path / "b.png"), read_pixels(folder / name)))
    assert result["rows"][0]["metrics"]["psnr"]["mean"] == pytest.approx(sum(found) / 2, abs=1e-3)


def test_entropy_coding_leaves_more_codes_for_the_same_file(codec, folder):
    plain, coded = (
        evaluate_pictures(codec, folder, bpps=[0.46], entropy=entropy, baselines=False, progress=False)["rows"][0]
        for entropy in ("none", "adaptive")
    )
    assert coded["bpp"]["file"] == pytest.approx(plain["bpp"]["file"], rel=0.01)
    assert coded["metrics"]["psnr"]["mean"] > plain["metrics"]["psnr"]["mean"]


def test_a_picture_is_looked_at_once_for_all_rates(codec, folder, monkeypatch):
    looks = []
    latents = codec.latents
    monkeypatch.setattr(codec, "latents", lambda media: looks.append(1) or latents(media))
    settings = settings_of(codec.info, [0.28, 0.32, 0.36], [])
    trips = list(round_trips(codec, scene(), settings, beam=2, entropy="adaptive"))
    assert len(trips) == 3 and len(looks) == 1


def test_without_rates_those_that_the_codec_has_are_measured():
    coarse, fine = (ToyImageCodec(ToyImageConfig(hop=hop)).info for hop in (8, 4))
    assert [one.bpp for one in settings_of(coarse, [], [])] == [0.17, 0.2, 0.25]  # 4 codes of 4 bits on 64 pixels
    assert [one.bpp for one in settings_of(fine, [], [])] == [0.25, 0.31, 0.4]  # from 1 code of 4 bits on 16 pixels on
    huge = ToyImageCodec(ToyImageConfig(hop=2)).info
    assert [one.codebooks for one in settings_of(huge, [], [])] == [1, 2, 3, 4]
    single = tiny("vqgan", "sphere").info
    assert [(one.label, one.bpp) for one in settings_of(single, [], [])] == [("1 codebook", None)]


def test_a_codec_of_fixed_size_is_judged_tile_by_tile(folder):
    (row,) = evaluate_pictures(tiny("titok", "pixels"), folder / "0.png", baselines=False, progress=False)["rows"]
    assert row["setting"] == "1 codebook" and row["metrics"]["psnr"]["clips"] == 1


def test_the_result_is_what_the_json_file_holds_and_states_its_conditions(codec, folder, tmp_path):
    file = tmp_path / "a.json"
    found = evaluate_pictures(codec, folder, codebooks=[1], baselines=False, json_file=file, progress=False)
    assert json.loads(file.read_text()) == found
    assert found["data"]["size"] == "192 x 192" and found["data"]["pictures"] == 2
    conditions = found["conditions"]
    assert conditions["versions"]["pillow"] == PIL.__version__ and conditions["libraries"]["libavif"][:1].isdigit()
    assert (conditions["threads_per_process"], conditions["entropy"]) == (1, "adaptive")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "missing"}, "no such file"),
        ({"bpps": [0.01]}, r"0\.png: .* bits are too few: .* ask for that or more"),
        ({"bpps": [-1]}, "bits per pixel must be above 0, got -1"),
        ({"codebooks": [9]}, "1 to 4 codebooks"),
        ({"entropy": "trained"}, "has no trained model"),
        ({"json_file": "nowhere/a.json"}, "does not exist; create it first"),
        ({"model": "spectral.speech-16khz"}, "codes audio"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(options, message, codec, folder):
    given = {"model": codec, "data": folder, "codebooks": [1]} | options
    if "bpps" in options:
        given["codebooks"] = []
    with pytest.raises(UserError, match=message):
        evaluate_pictures(**given, baselines=False, progress=False)


def test_a_codec_without_levels_refuses_rates(folder):
    with pytest.raises(UserError, match="no residual quantizer"):
        evaluate_pictures(tiny("vqgan", "sphere"), folder, bpps=[0.5], baselines=False, progress=False)


def test_the_six_photographs_are_squares_of_the_size_asked_for():
    six = photographs()
    assert len(six) == 6
    for picture in six.values():
        assert centre_square(picture, 64).size == (64, 64)
