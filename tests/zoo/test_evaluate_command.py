"""`zoo evaluate` measures what a model codes: recordings or pictures, each with options of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from toy_image_codec import patches

import zoo
from zoo import checkpoint, cli
from zoo.codecs.image.io import to_pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A picture codec of 2 codebooks of 16 codes on 4 x 4 pixels: .25 and .5 bits per pixel, if packed."""
    small = dict(width=8, multipliers=(1, 2, 2), blocks=1, attention=(), groups=4, latent=12, code_dim=6)
    codec = zoo.create("rqvae", **small, codebook_size=16, codebooks=2, shared=False, kmeans_vectors=300).train()
    codec(patches(1, 64, 96))
    folder = tmp_path_factory.mktemp("pictures")
    checkpoint.save(codec, folder)
    return str(folder)


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    small = dict(ratios=(5, 4, 4), filters=2, dim=4, codebooks=2, codebook_size=16, lstm_layers=0, pad="constant")
    checkpoint.save(zoo.create("seanet", sample_rate=8000, **small), folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(to_pixels(patches(1, 64, 96, seed)[0].numpy())).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    soundfile.write(folder / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    return folder


@pytest.fixture
def run(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = cli.main(["evaluate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_pictures_are_measured_and_shown_as_table_card_and_curves(run, model, pictures, tmp_path):
    files = {"-o": tmp_path / "a.json", "--card": tmp_path / "a.md", "--plot": tmp_path / "a.png"}
    written = [part for pair in files.items() for part in pair]
    code, out, err = run(model, pictures, "--bpp", 0.6, "-n", 1, "--beam", 2, "--entropy", "adaptive", *written)
    assert (code, err) == (0, "")
    for shown in ("bpp", "PSNR dB", "MS-SSIM", "contrast distance", "JPEG", "WebP", "AVIF", "MP/s", "2 pictures"):
        assert shown in out
    found = json.loads(files["-o"].read_text())
    assert [row["setting"] for row in found["rows"]] == ["0.6 bpp", "1 codebook"] and len(found["baselines"]) == 6
    assert found["conditions"]["beam"] == 2 and found["conditions"]["entropy"] == "adaptive"
    assert found["rows"][0]["bpp"]["file"] <= 0.6
    card = files["--card"].read_text()
    for row in found["rows"] + found["baselines"]:
        assert f"| {row['system']} | {row['bpp']['file']:.3f} |" in card
    assert Image.open(files["--plot"]).size[0] > 500


def test_json_goes_to_the_terminal_without_a_table_or_baselines(run, model, pictures):
    code, out, err = run(model, pictures, "-n", 2, "--no-baselines", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["baselines"] == [] and len(json.loads(out)["rows"]) == 1


def test_recordings_are_measured_as_before(run, speech_model, recordings, tmp_path):
    code, out, err = run(
        speech_model, recordings, "-n", 1, "--processes", 1, "--card", tmp_path / "a.md", "--plot", tmp_path / "a.svg"
    )
    assert (code, err) == (0, "")
    assert "PESQ-wb" in out and "encode x" in out and "1 clips" in out
    assert (tmp_path / "a.md").read_text().startswith("| system | recordings: kbps | PESQ-wb | STOI |\n")
    assert "</svg>" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("option", [["--clips", 1], ["--level", -10], ["--judges"], ["--processes", 1]])
def test_options_for_recordings_mean_nothing_for_pictures(option, run, model, pictures):
    name = option[0].strip("-")
    assert run(model, pictures, *option) == (2, "", f"zoo: {name} means nothing for pictures; leave it out\n")


@pytest.mark.parametrize("option", [["--bpp", 0.2], ["--beam", 1], ["--entropy", "none"]])
def test_options_for_pictures_mean_nothing_for_recordings(option, run, speech_model, recordings):
    name = option[0].strip("-")
    assert run(speech_model, recordings, *option) == (2, "", f"zoo: {name} means nothing for audio; leave it out\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.doc"], "name a file that ends in .png, .svg, .pdf"),
        (["--plot", "no/such/a.png"], "create it first"),
        (["--card", "no/such/a.md"], "create it first"),
        (["-o", "no/such/a.json"], "create it first"),
        (["--entropy", "best"], "choose none, adaptive, trained"),
        (["--bpp", "0"], "bits per pixel must be above 0, got 0"),
        (["--bpp", "0.001"], "ask for that or more"),
        (["-n", "3"], "1 to 2 codebooks"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(options, message, run, model, pictures):
    before = sorted(pictures.parent.rglob("*"))
    code, out, err = run(model, pictures, *options)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert sorted(pictures.parent.rglob("*")) == before


def test_data_of_the_other_kind_is_refused(run, model, speech_model, pictures, recordings):
    assert "no picture" in run(model, recordings)[2]
    assert "no audio found" in run(speech_model, pictures)[2]
