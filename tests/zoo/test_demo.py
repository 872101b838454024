"""The demo: what it writes is what it says."""

import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from small_image_codecs import TINY, pictures

import zoo
from zoo import checkpoint, demo
from zoo.codecs.image.io import write_image
from zoo.container import measured_kbps


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a small codec with random weights: 8 codebooks of 16 codes at 50 Hz."""
    folder = tmp_path_factory.mktemp("models") / "seanet.tiny"
    torch.manual_seed(0)
    small = dict(filters=4, dim=8, lstm_layers=0, norm="none", codebooks=8, codebook_size=16)
    checkpoint.save(zoo.create("seanet", sample_rate=16000, ratios=(4, 4, 4, 5), **small), folder)
    return folder


@pytest.fixture(scope="module")
def picture_model(tmp_path_factory):
    """Directory of a small picture codec that was fitted on pictures: 24 codebooks of 32 codes."""
    folder = tmp_path_factory.mktemp("models") / "variable.tiny"
    torch.manual_seed(0)
    codec = zoo.create("variable", **TINY["variable"]["plain"] | dict(codebooks=24, codebook_size=32)).train()
    for seed in range(3):
        codec(pictures(4, 256, 256, seed))
    checkpoint.save(codec.eval(), folder)
    return folder


@pytest.fixture(scope="module")
def models(model, picture_model):
    return ["--model", str(model), "--picture-model", str(picture_model), "--codecs-only"]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "mine.png"
    write_image(path, pictures(1, 200, 250)[0].clamp(0, 1).numpy())
    return path


def table_of(folder, title):
    """Cells of the lines behind the heading of the table under that title."""
    text = (folder / "table.md").read_text().partition(f"## {title}")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_demo_writes_media_tokens_pictures_and_tables_and_says_where(models, photograph, tmp_path, capsys):
    folder = tmp_path / "new" / "demo"
    assert demo.main([str(photograph), *models, "--out", str(folder)]) == 0
    frames = soundfile.info(folder / "original.wav").frames
    original, *rows = table_of(folder, "One recording, three bitrates")
    assert [row[0] for row in rows] == ["1", "4", "8"]  # an eighth, a half and all of the codebooks
    for codebooks, size, kbps, *_, speed in rows:
        tokens = folder / f"{codebooks}-codebooks.ztok"
        assert int(size.replace(",", "")) == tokens.stat().st_size
        assert float(kbps) == pytest.approx(measured_kbps(tokens), abs=0.005)
        assert re.fullmatch(r"\d+x", speed)
        assert soundfile.info(tokens.with_suffix(".wav")).frames == frames
    original, *rows = table_of(folder, "One photograph, three rates")
    assert [row[0] for row in rows] == ["0.17", "0.25", "0.4"]
    assert Image.open(folder / "0.17-bpp.png").size == (250, 200)
    for name in ("demo.png", "photo.png"):
        width, height = Image.open(folder / name).size
        assert width > 1000 and height > 600
    said = capsys.readouterr().out
    names = "demo.png", "photo.png", "original.wav", "original.png", "codebooks.ztok", "bpp.ztok", "table.md"
    assert all(name in said for name in names)


def test_media_too_small_to_score_get_dashes_and_the_reason(models, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.zeros(160), 16000)  # 10 ms
    write_image(tmp_path / "small.png", pictures(1, 150, 150)[0].clamp(0, 1).numpy())
    media = [str(tmp_path / "click.wav"), str(tmp_path / "small.png")]
    assert demo.main([*media, *models, "--out", str(tmp_path / "demo")]) == 0
    assert [row[3:5] for row in table_of(tmp_path / "demo", "One recording")[1:]] == [["-", "-"]] * 3
    assert [row[4] for row in table_of(tmp_path / "demo", "One photograph")[1:]] == ["-"] * 3
    assert (tmp_path / "demo" / "table.md").read_text().count("No score: ") == 2


@pytest.mark.parametrize(
    ("media", "message"),
    [(["no.wav"], "no.wav"), (["{photograph}", "{photograph}"], "at most one recording and one photograph")],
)
def test_what_cannot_be_shown_gives_one_line_and_leaves_no_folder(models, photograph, tmp_path, capsys, media, message):
    media = [text.format(photograph=photograph) for text in media]
    assert demo.main([*media, *models, "--out", str(tmp_path / "demo")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert not (tmp_path / "demo").exists()
