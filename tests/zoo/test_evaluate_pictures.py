"""Pictures are judged by whole files, beside classical codecs at the same bits."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from toy_image_codec import toy as toy_image_codec

from zoo.codecs.errors import UserError
from zoo.evaluate_pictures import METRICS, evaluate_pictures
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


def test_a_rate_that_a_format_cannot_reach_has_no_score_and_says_why():
    coder = Coder(scene(), "JPEG", {"psnr": psnr})
    score = coder.at_bits(100)["psnr"]
    assert math.isnan(score.value)
    assert "smallest JPEG" in score.reason


def test_rows_are_of_whole_files_and_baselines_have_their_bits(folder):
    result = evaluate_pictures(toy_image_codec(), folder, codebooks=[1, 3], progress=False)
    assert [row["setting"] for row in result["rows"]] == ["1 codebook", "3 codebooks"]
    low, high = result["rows"]
    assert low["bpp"]["file"] < high["bpp"]["file"]
    assert low["metrics"]["psnr"]["mean"] < high["metrics"]["psnr"]["mean"]
    assert {row["family"] for row in result["baselines"]} == {"JPEG", "WebP", "AVIF"}
    for row in result["baselines"]:
        (ours,) = [one for one in result["rows"] if one["setting"] == row["setting"]]
        assert row["bpp"] == ours["bpp"]
        assert row["metrics"]["psnr"]["clips"] + row["metrics"]["psnr"]["missing"] == 2


def test_levels_chosen_cell_by_cell_stay_within_the_rate_asked_for(folder):
    codec = toy_image_codec()
    low = codec.info.bpp(1) + 0.01
    rates = [low + share * (codec.info.bpp() - low) for share in (0.3, 0.8)]
    result = evaluate_pictures(codec, folder, bpps=rates, baselines=False, progress=False)
    header = 30 * 8 / 192**2
    for row, rate in zip(result["rows"], rates, strict=True):
        assert row["bpp"]["file"] <= rate + header


def test_bad_data_and_codecs_of_sound_are_refused(tmp_path, folder):
    with pytest.raises(UserError, match="no such file"):
        evaluate_pictures(toy_image_codec(), tmp_path / "missing", progress=False)
    with pytest.raises(UserError, match="audio"):
        evaluate_pictures("spectral.speech-16khz", folder, progress=False)


def test_the_six_photographs_are_squares_of_the_size_asked_for():
    six = photographs()
    assert len(six) == 6
    for picture in six.values():
        assert centre_square(picture, 64).size == (64, 64)
