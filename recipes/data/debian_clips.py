"""A clip of a corpus: where its samples come from and the FLAC file that they go to."""

import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SHORTEST_SECONDS = 0.15
FAINTEST_PEAK = 0.005  # of full scale; quieter files hold no speech


@dataclass(frozen=True)
class Clip:
    """One utterance: `read` gives its samples, int16 [time] at 16 kHz, or raises `NotSpeech`."""

    split: str
    speaker: str
    name: str
    read: Callable[[], np.ndarray]


class NotSpeech(Exception):
    """The clip is not wanted in a speech corpus; the message says why."""


def write_clip(root: Path, clip: Clip) -> str | None:
    """Write `root/split/speaker/name.flac` unless it exists; the reason if the clip was refused, else None.

    The file appears under its name only when complete, so an interrupted build can be continued.
    """
    target = root / clip.split / clip.speaker / f"{clip.name}.flac"
    if target.exists():
        return None
    try:
        samples = clip.read()
        _check_speech(samples)
    except NotSpeech as reason:
        return str(reason)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        soundfile.write(partial, samples, RATE, format="FLAC", subtype="PCM_16")
        partial.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return None


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in -1..1 as int16, clipped where they exceed full scale; the level stays as it was."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def run_program(*command: str, text: str = "") -> bytes:
    """What a program prints when given `text`; `NotSpeech` with its last complaint where it fails on this clip."""
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotSpeech(f"{command[0]}: {complaint[-1]}")
    return done.stdout


def _check_speech(samples: np.ndarray) -> None:
    if samples.size < SHORTEST_SECONDS * RATE:
        raise NotSpeech(f"decodes to {samples.size / RATE:.2f} s, less than {SHORTEST_SECONDS} s")
    if np.abs(samples.astype(np.int32)).max() < FAINTEST_PEAK * 32768:
        raise NotSpeech("silent")
