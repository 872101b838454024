"""The demo: what it writes is what it says."""

import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import zoo
from zoo import checkpoint, demo
from zoo.container import measured_kbps


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a small codec with random weights: 8 codebooks of 16 codes at 50 Hz."""
    folder = tmp_path_factory.mktemp("models") / "seanet.tiny"
    torch.manual_seed(0)
    small = dict(filters=4, dim=8, lstm_layers=0, norm="none", codebooks=8, codebook_size=16)
    checkpoint.save(zoo.create("seanet", sample_rate=16000, ratios=(4, 4, 4, 5), **small), folder)
    return folder


def table_of(folder):
    """Cells of the table's lines behind the heading."""
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_demo_writes_audio_tokens_picture_and_table_and_says_where(model, tmp_path, capsys):
    folder = tmp_path / "new" / "demo"
    assert demo.main(["--model", str(model), "--out", str(folder)]) == 0
    frames = soundfile.info(folder / "original.wav").frames
    original, *rows = table_of(folder)
    assert [row[0] for row in rows] == ["1", "4", "8"]  # an eighth, a half and all of the codebooks
    for codebooks, size, kbps, *_, speed in rows:
        tokens = folder / f"{codebooks}-codebooks.ztok"
        assert int(size.replace(",", "")) == tokens.stat().st_size
        assert float(kbps) == pytest.approx(measured_kbps(tokens), abs=0.005)
        assert re.fullmatch(r"\d+x", speed)
        assert soundfile.info(tokens.with_suffix(".wav")).frames == frames
    width, height = Image.open(folder / "demo.png").size
    assert width > 1000 and height > 600
    said = capsys.readouterr().out
    assert all(name in said for name in ("demo.png", "original.wav", "codebooks.ztok", "table.md"))


def test_silence_too_short_to_score_gets_dashes_and_the_reason(model, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.zeros(160), 16000)  # 10 ms
    assert demo.main([str(tmp_path / "click.wav"), "--model", str(model), "--out", str(tmp_path / "demo")]) == 0
    assert [row[3:5] for row in table_of(tmp_path / "demo")[1:]] == [["-", "-"]] * 3
    assert "No score: " in (tmp_path / "demo" / "table.md").read_text()


def test_a_missing_recording_gives_one_line_and_leaves_no_folder(model, tmp_path, capsys):
    assert demo.main([str(tmp_path / "no.wav"), "--model", str(model), "--out", str(tmp_path / "demo")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "no.wav" in message
    assert not (tmp_path / "demo").exists()
