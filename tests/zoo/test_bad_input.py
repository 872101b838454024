"""Whatever is wrong with a file, a command gives the right output or one line that names file and cause, exit code 2,
and leaves nothing behind.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command_line import one_line

import zoo
from zoo import checkpoint, cli
from zoo.codecs.audio.io import read_audio

RATE = 16000


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a small codec with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(zoo.create("seanet", sample_rate=RATE, filters=2, dim=8, lstm_layers=0, codebooks=16), folder)
    return str(folder)


def noise(seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    """`[time, channel]`."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * RATE), channels)).astype(np.float32)


def with_nan(path: Path) -> None:
    sound = noise()
    sound[4000] = np.nan
    soundfile.write(path, sound, RATE, subtype="FLOAT")


def cut(path: Path) -> None:
    soundfile.write(path, noise(), RATE)
    path.write_bytes(path.read_bytes()[:9000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "empty": (Path.touch, "is empty (0 bytes)"),
    "truncated": (cut, "is truncated or damaged (its header says 16000 bytes, 8956 are there)"),
    "no samples": (lambda path: soundfile.write(path, noise(0), RATE), "holds no audio samples"),
    "NaN": (with_nan, "holds NaN, infinite or absurdly loud samples ([nan]), the first at 0.250 s"),
    "text": (lambda path: path.write_text("la la la\n" * 99), "read"),
    "random": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "read"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["tokenize", "reconstruct"])
def test_a_bad_recording_is_one_line_and_no_output(command, what, model, tmp_path, capfd) -> None:
    make, cause = BAD[what]
    make(tmp_path / "in.wav")
    before = sorted(tmp_path.iterdir())
    line = one_line(capfd, command, tmp_path / "in.wav", "-o", tmp_path / "out.wav", "-m", model)
    assert cause in line and str(tmp_path / "in.wav") in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("what", ["missing", "folder", "empty", "text", "random"])
def test_what_is_no_token_file_is_one_line_and_no_output(what, model, tmp_path, capfd) -> None:
    make, cause = BAD[what]
    make(tmp_path / "in.ztok")
    line = one_line(capfd, "reconstruct", tmp_path / "in.ztok", "-o", tmp_path / "out.wav", "-m", model)
    assert (cause in line or "is not a token file" in line) and str(tmp_path / "in.ztok") in line
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("rate", "channels", "samples", "subtype"),
    [
        (RATE, 1, 8000, "PCM_U8"),
        (RATE, 8, 8000, "PCM_16"),
        (192000, 2, 50000, "PCM_24"),
        (RATE, 1, 1, "PCM_16"),
        (48000, 2, 1, "FLOAT"),
        (8000, 1, 4001, "ULAW"),
    ],
)
def test_unusual_recordings_come_back_with_their_shape(rate, channels, samples, subtype, model, tmp_path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(tmp_path / "in.wav", sound, rate, subtype=subtype)
    shutil.move(tmp_path / "in.wav", tmp_path / "misnamed.mp3")
    assert cli.main(["tokenize", str(tmp_path / "misnamed.mp3"), "-o", str(tmp_path / "a.ztok"), "-m", model]) == 0
    assert cli.main(["reconstruct", str(tmp_path / "a.ztok"), "-o", str(tmp_path / "out.wav"), "-m", model]) == 0
    read, read_rate = read_audio(tmp_path / "out.wav")
    assert read_rate == rate and read.shape == (channels, samples)


def test_a_damaged_block_leaves_no_output(model, tmp_path, capfd) -> None:
    soundfile.write(tmp_path / "in.wav", noise(20), RATE)
    zoo.tokenize(tmp_path / "in.wav", tmp_path / "a.ztok", model)
    data = bytearray((tmp_path / "a.ztok").read_bytes())
    data[-60] ^= 4  # in the last block: reconstruction is well under way when it comes
    (tmp_path / "a.ztok").write_bytes(data)
    (tmp_path / "out").mkdir()
    line = one_line(capfd, "reconstruct", tmp_path / "a.ztok", "-o", tmp_path / "out" / "b.wav", "-m", model)
    assert "a.ztok: its block" in line and "is damaged" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_source_is_never_overwritten(model, tmp_path, capfd) -> None:
    soundfile.write(tmp_path / "in.wav", noise(), RATE)
    before = (tmp_path / "in.wav").read_bytes()
    (tmp_path / "link.wav").symlink_to(tmp_path / "in.wav")
    for command in ("tokenize", "reconstruct"):
        line = one_line(capfd, command, tmp_path / "in.wav", "-o", tmp_path / "link.wav", "-m", model)
        assert "is the source itself" in line
    assert (tmp_path / "in.wav").read_bytes() == before


def test_devices_and_folders_are_never_replaced(model, tmp_path, capfd) -> None:
    soundfile.write(tmp_path / "in.wav", noise(), RATE)
    zoo.tokenize(tmp_path / "in.wav", tmp_path / "a.ztok", model)
    (tmp_path / "out.wav").mkdir()
    with pytest.raises(zoo.codecs.errors.UserError, match="not a regular file"):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "out.wav", model)
    assert "not a regular file" in one_line(capfd, "tokenize", tmp_path / "in.wav", "-o", "/dev/null", "-m", model)
    assert not Path("/dev/null").is_file()


FULL_DISK = """
set -e
if mount -t tmpfs -o size=16k none "$1" 2>/dev/null; then echo tmpfs; else ulimit -f 16; trap '' XFSZ; echo limit; fi
shift
"$@" && code=0 || code=$?
echo "code $code"
ls -A "$FOLDER"
"""


@pytest.mark.parametrize(("command", "ending"), [("tokenize", ".ztok"), ("reconstruct", ".wav")])
def test_a_full_disk_is_one_line_and_no_output(command, ending, model, tmp_path) -> None:
    # A disk of 16 kB: a file system of that size where this process, or a user name space, may mount one, and else a
    # limit of 16 kB a file, which fails a write at the same place.
    folder = tmp_path / "full"
    folder.mkdir()
    source = tmp_path / "in.wav"
    soundfile.write(source, noise(20), RATE)  # 20 kB of tokens
    if command == "reconstruct":
        source = tmp_path / "in.ztok"
        zoo.tokenize(tmp_path / "in.wav", source, model)
    zoo_command = [sys.executable, "-m", "zoo.cli", command, source, "-o", folder / f"out{ending}"]
    packed = ["--entropy", "none"] if command == "tokenize" else []  # else too little is left to write
    inside = ["bash", "-c", FULL_DISK, "bash", folder, *zoo_command, "-m", model, *packed]
    unshared = ["unshare", "--map-root-user", "--mount", *inside]
    works = shutil.which("unshare") and not subprocess.run([*unshared[:3], "true"], capture_output=True).returncode
    ran = subprocess.run(
        unshared if works else inside, capture_output=True, text=True, env=os.environ | {"FOLDER": str(folder)}
    )
    assert ran.stdout.splitlines()[1:] == ["code 2"], ran.stderr
    cause = "No space left on device" if ran.stdout.startswith("tmpfs") else "File too large"
    assert ran.stderr.count("\n") == 1 and f"out{ending}: cannot write: {cause}" in ran.stderr
    assert list(folder.iterdir()) == []
