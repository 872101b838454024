"""Pictures to token files and back: any kind and size, at the rate or quality asked for, or one line and no output."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command_line import one_line
from PIL import Image

import zoo
from zoo import checkpoint, cli
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_pixels
from zoo.codecs.image.rate import psnr_of
from zoo.container import TokenReader

SMALL = dict(width=8, multipliers=(1, 2, 2), blocks=1, attention=(), groups=4, latent=12)

RESIDUAL = SMALL | dict(code_dim=6, codebook_size=16, codebooks=3, shared=False, kmeans_vectors=300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a small residual codec: cells of 4 pixels, 3 codebooks of 16 codes, which have seen a picture."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "pictures"
    codec = zoo.create("rqvae", **RESIDUAL).train()
    with torch.no_grad():
        codec(torch.from_numpy(picture(64, 80).transpose(2, 0, 1) / np.float32(255))[None])
    checkpoint.save(codec, folder)
    return str(folder)


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "speech"
    small = dict(ratios=(5, 4, 4), filters=2, dim=4, codebooks=4, codebook_size=16, lstm_layers=0, pad="constant")
    checkpoint.save(zoo.create("seanet", sample_rate=8000, **small), folder)
    return str(folder)


def picture(height: int = 61, width: int = 83) -> np.ndarray:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (height, width, 3)).astype(np.uint8)
    pixels[:, : width // 2] = 100
    return pixels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 8000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize("entropy", [None, "none", "adaptive"])
def test_a_picture_comes_back_with_its_size_and_as_the_codec_decodes_it(entropy, model, source, tmp_path) -> None:
    facts = zoo.tokenize(source, tmp_path / "a.ztok", model, entropy=entropy)
    assert (facts["media"], facts["height"], facts["width"], facts["codebooks"]) == ("image", 61, 83, 3)
    assert facts["bpp"] == pytest.approx(8 * (tmp_path / "a.ztok").stat().st_size / (61 * 83))
    codec = zoo.load(model)
    media = torch.from_numpy(picture().transpose(2, 0, 1) / np.float32(255))[None]
    wanted = codec.encode(media)
    with TokenReader(tmp_path / "a.ztok") as reader:
        assert (reader.tokens().codes == wanted.codes).float().mean() > 0.98  # the rest may be ties
    for codebooks in (None, 1):
        done = zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model, codebooks)
        assert (done["width"], done["height"], done["codebooks"]) == (83, 61, codebooks or 3)
        decoded = codec.decode(wanted.first(codebooks or 3))[0].numpy().transpose(1, 2, 0) * 255
        assert np.median(np.abs(read_pixels(tmp_path / "b.png") - decoded)) <= 0.5


def test_a_picture_is_tokenized_and_reconstructed_in_one_go(model, source, tmp_path) -> None:
    zoo.tokenize(source, tmp_path / "a.ztok", model, codebooks=2)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model)
    zoo.reconstruct(source, tmp_path / "c.png", model, codebooks=2)
    assert np.array_equal(read_pixels(tmp_path / "b.png"), read_pixels(tmp_path / "c.png"))


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("bpp", [0.42, 0.6])
def test_the_file_takes_the_bits_per_pixel_asked_for_and_no_more(bpp, beam, model, source, tmp_path) -> None:
    facts = zoo.tokenize(source, tmp_path / "a.ztok", model, bpp=bpp, beam=beam)
    bits = 8 * (tmp_path / "a.ztok").stat().st_size
    assert 0.9 * bpp * 61 * 83 <= bits <= bpp * 61 * 83
    assert facts["depth"] is True
    with TokenReader(tmp_path / "a.ztok") as reader:
        depth = reader.tokens().depth
    assert depth.min() >= 1 and len(depth.unique()) > 1
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model)
    assert read_pixels(tmp_path / "b.png").shape == (61, 83, 3)


def test_a_quality_is_reached_and_stated(model, source, tmp_path) -> None:
    zoo.tokenize(source, tmp_path / "all.ztok", model)
    zoo.reconstruct(tmp_path / "all.ztok", tmp_path / "all.png", model)
    best = psnr_of(read_pixels(tmp_path / "all.png"), picture())
    facts = zoo.tokenize(source, tmp_path / "a.ztok", model, quality=best - 0.3)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model)
    assert facts["psnr"] == pytest.approx(psnr_of(read_pixels(tmp_path / "b.png"), picture()), abs=1e-6)
    assert facts["psnr"] >= best - 0.3 or facts["psnr"] == pytest.approx(best, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bpp": 0.01}, "ask for that or more"),
        ({"bpp": -1}, "bits per pixel must be above 0, got -1"),
        ({"quality": float("nan")}, "a quality in dB must be above 0, got nan"),
        ({"bpp": 1, "quality": 30}, "either bits per pixel or a quality"),
        ({"codebooks": 4}, r"codebooks must lie in 1\.\.3, got 4"),
        ({"beam": 0}, "a beam of 0 cannot be"),
        ({"kbps": 2}, "kbps means nothing for pictures"),
        ({"channels": "mix"}, "mix means nothing for pictures"),
        ({"entropy": "trained"}, "has no trained model"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, message, model, source, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        zoo.tokenize(source, tmp_path / "a.ztok", model, **options)
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_codec_of_one_rate_refuses_another(source, tmp_path) -> None:
    codec = zoo.create("vqgan", **SMALL, code_dim=6, codebook_size=16).eval()
    for options in ({"bpp": 1.0}, {"quality": 30.0}, {"beam": 4}):
        with pytest.raises(UserError, match="no residual quantizer"):
            zoo.tokenize(source, tmp_path / "a.ztok", codec, **options)
    assert zoo.tokenize(source, tmp_path / "a.ztok", codec)["codebooks"] == 1


def test_media_of_the_other_kind_are_refused(model, speech_model, source, recording, tmp_path) -> None:
    before = sorted(tmp_path.iterdir())
    for run in (zoo.tokenize, zoo.reconstruct):
        with pytest.raises(UserError, match=r"a\.png: is a picture, but 'speech' codes audio; name another codec"):
            run(source, tmp_path / "out.wav", speech_model)
        with pytest.raises(UserError, match=r"a\.wav: is a recording, but 'pictures' codes pictures; name another"):
            run(recording, tmp_path / "out.png", model)
    for option in ({"bpp": 1}, {"quality": 30}):
        with pytest.raises(UserError, match="means nothing for audio"):
            zoo.tokenize(recording, tmp_path / "a.ztok", speech_model, **option)
    assert sorted(tmp_path.iterdir()) == before


def test_tokens_of_the_other_kind_or_codec_are_refused(model, speech_model, source, recording, tmp_path) -> None:
    zoo.tokenize(source, tmp_path / "picture.ztok", model)
    zoo.tokenize(recording, tmp_path / "audio.ztok", speech_model)
    before = sorted(tmp_path.iterdir())
    other = zoo.create("rqvae", **RESIDUAL | {"multipliers": (1, 2)})
    for tokens, target, codec, message in (
        ("picture.ztok", "b.wav", speech_model, "holds tokens of a picture, but 'speech' codes a recording"),
        ("audio.ztok", "b.png", model, "holds tokens of a recording, but 'pictures' codes a picture"),
        ("picture.ztok", "b.png", other, "was made by another codec"),
        ("picture.ztok", "b.wav", model, "cannot write a picture of that kind"),
        ("picture.ztok", "b.png", None, "does not ship with this program; name it with --model"),
    ):
        with pytest.raises(UserError, match=message):
            zoo.reconstruct(tmp_path / tokens, tmp_path / target, codec)
    with pytest.raises(UserError, match="start means nothing for pictures"):
        zoo.reconstruct(tmp_path / "picture.ztok", tmp_path / "b.png", model, start=1)
    with pytest.raises(UserError, match="holds 3 codebooks, 4 were asked for"):
        zoo.reconstruct(tmp_path / "picture.ztok", tmp_path / "b.png", model, codebooks=4)
    assert sorted(tmp_path.iterdir()) == before


def test_large_pictures_go_tile_by_tile(model, tmp_path) -> None:
    Image.fromarray(picture(590, 500)).save(tmp_path / "a.png")
    reports: list[tuple[float, float | None]] = []
    zoo.tokenize(tmp_path / "a.png", tmp_path / "a.ztok", model, progress=lambda *numbers: reports.append(numbers))
    assert reports == [(1, 2), (2, 2)]
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model)
    assert read_pixels(tmp_path / "b.png").shape == (590, 500, 3)


def cut(path: Path) -> None:
    Image.fromarray(picture()).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "empty": (Path.touch, "is empty (0 bytes)"),
    "truncated": (cut, "is truncated or damaged"),
    "bomb": (bomb, "holds more than 170,000,000 pixels"),
    "text": (lambda path: path.write_text("la la la\n" * 99), "is not a picture that Pillow can read"),
    "random": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "is not a picture"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["tokenize", "reconstruct"])
def test_a_bad_picture_is_one_line_and_no_output(command, what, model, tmp_path, capfd) -> None:
    make, cause = BAD[what]
    make(tmp_path / "in.png")
    before = sorted(tmp_path.iterdir())
    line = one_line(capfd, command, tmp_path / "in.png", "-o", tmp_path / "out.png", "-m", model)
    assert cause in line and str(tmp_path / "in.png") in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_goes_through_the_commands(mode, model, tmp_path, capfd) -> None:
    grey = picture()[:, :, 0]
    image = (
        Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(picture()).convert(mode)
    )
    image.save(tmp_path / "misnamed.wav", "TIFF" if mode == "CMYK" else "PNG")
    assert cli.main(["tokenize", f"{tmp_path}/misnamed.wav", "-o", f"{tmp_path}/a.ztok", "-m", model]) == 0
    assert cli.main(["reconstruct", f"{tmp_path}/a.ztok", "-o", f"{tmp_path}/out.webp", "-m", model]) == 0
    assert read_pixels(tmp_path / "out.webp").shape == (61, 83, 3)


def test_the_command_line_takes_rate_quality_beam_and_entropy(model, source, tmp_path, capfd) -> None:
    command = ["tokenize", str(source), "-o", str(tmp_path / "a.ztok"), "-m", model]
    assert cli.main([*command, "--bpp", ".5", "--beam", "2", "--entropy", "adaptive", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)[0]
    assert facts["bpp"] <= 0.5 and facts["depth"] is True
    assert cli.main([*command, "--quality", "3"]) == 0
    assert "PSNR" in capfd.readouterr().out
    assert cli.main(["info", str(tmp_path / "a.ztok"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["media"] == "image"
    assert cli.main(["info", model, "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["bpp_by_codebooks"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    assert "entropy coding 'best' is unknown; choose none, adaptive, trained" in one_line(
        capfd, *command, "--entropy", "best"
    )
    assert "--beam" in one_line(capfd, *command, "--beam", "0")


def test_several_token_files_become_what_they_hold(model, source, tmp_path, capfd) -> None:
    (tmp_path / "b.png").write_bytes(source.read_bytes())
    for name in "ab":
        zoo.tokenize(tmp_path / f"{name}.png", tmp_path / f"{name}.ztok", model)
    out = tmp_path / "out"
    arguments = [f"{tmp_path}/a.ztok", f"{tmp_path}/b.ztok", "-o", str(out)]
    assert cli.main(["reconstruct", *arguments, "-m", model]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]


def test_a_damaged_token_file_of_a_picture_leaves_no_output(model, source, tmp_path, capfd) -> None:
    zoo.tokenize(source, tmp_path / "a.ztok", model)
    data = bytearray((tmp_path / "a.ztok").read_bytes())
    data[-30] ^= 4
    (tmp_path / "a.ztok").write_bytes(data)
    (tmp_path / "out").mkdir()
    line = one_line(capfd, "reconstruct", tmp_path / "a.ztok", "-o", tmp_path / "out" / "b.png", "-m", model)
    assert "a.ztok: is damaged" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_is_never_overwritten_by_its_own_tokens(model, source, capfd) -> None:
    before = source.read_bytes()
    for command in ("tokenize", "reconstruct"):
        assert "is the source itself" in one_line(capfd, command, source, "-o", source, "-m", model)
    assert source.read_bytes() == before


def test_recordings_vary_their_codes_to_reach_a_rate(tmp_path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    sound[80_000:] *= 0.001
    soundfile.write(tmp_path / "a.wav", sound, 16000)
    steady = zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", "spectral.speech-16khz", kbps=2)
    facts = zoo.tokenize(tmp_path / "a.wav", tmp_path / "b.ztok", "spectral.speech-16khz", kbps=2, vary=True)
    assert facts["depth"] is True and facts["codebooks"] > steady["codebooks"]
    with TokenReader(tmp_path / "b.ztok") as reader:
        depth = reader.tokens().depth
    assert len(depth.unique()) > 2
    assert float(depth.sum()) * 10 / 10 / 1000 <= 2  # bits a code, over seconds
    zoo.reconstruct(tmp_path / "b.ztok", tmp_path / "b.wav")
    assert soundfile.info(tmp_path / "b.wav").frames == 160_000
    with pytest.raises(UserError, match="give kbps as well"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "c.ztok", "spectral.speech-16khz", vary=True)
    with pytest.raises(UserError, match="is too low"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "c.ztok", "spectral.speech-16khz", kbps=0.1, vary=True)
    assert not (tmp_path / "c.ztok").exists()


@pytest.mark.slow
def test_8192_pixels_a_side_go_through_files_in_less_than_3_gigabytes(tmp_path) -> None:
    script = """
import sys
from PIL import Image
import zoo
folder, model = sys.argv[1], "variable.photos"
Image.effect_noise((8192, 8192), 60).convert("RGB").save(folder + "/a.png", compress_level=1)
zoo.tokenize(folder + "/a.png", folder + "/a.ztok", model, codebooks=2)
zoo.reconstruct(folder + "/a.ztok", folder + "/b.png", model)
assert Image.open(folder + "/b.png").size == (8192, 8192)
# Not getrusage: its peak starts from that of the process which called this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) * 1024 < 3e9
