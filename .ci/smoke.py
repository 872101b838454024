"""Use the installed package as a newcomer would; run by `.ci/run` outside the checkout, whose path is the argument."""

import subprocess
import sys
from pathlib import Path

import zoo
from zoo.codecs.audio.io import read_audio
from zoo.recipes.metrics import mel_distance

BIN = Path(sys.executable).parent
MODEL = "spectral.speech-16khz"


def command(*arguments: str) -> str:
    """Output of a `zoo` command that must succeed."""
    return subprocess.run([BIN / "zoo", *arguments], check=True, capture_output=True, text=True).stdout


home = Path(zoo.__file__).resolve()
assert not home.is_relative_to(sys.argv[1]), f"zoo came from the checkout: {home}"
assert MODEL in command("list")
assert MODEL in command("info", MODEL)

command("tokenize", "speech.flac", "-o", "speech.ztok", "--model", MODEL)
command("reconstruct", "speech.ztok", "-o", "command.wav")
zoo.tokenize("speech.flac", "python.ztok", model=MODEL)
zoo.reconstruct("python.ztok", "python.wav")
assert Path("speech.ztok").read_bytes() == Path("python.ztok").read_bytes(), "command and Python wrote different tokens"

original, rate = read_audio("speech.flac")
for name in ("command.wav", "python.wav"):
    again, new_rate = read_audio(name)
    assert (again.shape, new_rate) == (original.shape, rate), f"{name}: {again.shape} at {new_rate} Hz"
    distance = mel_distance(original[0], again[0], rate).value
    backwards = mel_distance(original[0], original[0, ::-1].copy(), rate).value
    assert distance < backwards / 2, f"{name} does not resemble the original: mel distance {distance:.2f}"
print(f"reconstructed {original.shape[1] / rate:.1f} s outside the checkout, mel distance {distance:.2f}")
