"""A clip of a corpus: where its samples come from and the FLAC file that they go to."""

import contextlib
import fnmatch
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from zoo.codecs.errors import UserError

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


def write_clips(root: Path, clips: Sequence[Clip], title: str, processes: int) -> dict[str, str]:
    """Write the clips below `root`, as `write_clip` does, with a progress bar; which were refused, and why."""
    # Threads, because the work is done by child processes: one ffmpeg or synthesizer for each clip.
    with ThreadPoolExecutor(processes) as pool:
        reasons = track(pool.map(functools.partial(write_clip, root), clips), title, total=len(clips))
        return {f"{clip.speaker}/{clip.name}": reason for clip, reason in zip(clips, reasons, strict=True) if reason}


def describe(out: Path, refused: dict[str, str], credits: list[dict]) -> dict:
    """Clips and seconds of each split and speaker below `out`, whom to credit, and what was refused and why."""
    splits: dict[str, dict[str, dict]] = {}
    for folder in sorted(path for path in out.glob("*/*") if path.is_dir()):
        seconds = [soundfile.info(path).duration for path in folder.rglob("*.flac")]
        splits.setdefault(folder.parent.name, {})[folder.name] = {"clips": len(seconds), "seconds": round(sum(seconds))}
    present = {speaker for speakers in splits.values() for speaker in speakers}
    return {
        "sample_rate": RATE,
        "total": {
            split: {key: sum(entry[key] for entry in speakers.values()) for key in ("clips", "seconds")}
            for split, speakers in splits.items()
        },
        "splits": splits,
        "credits": [entry for entry in credits if fnmatch.filter(present, entry["speakers"])],
        "refused": {"count": len(refused), "reasons": dict(sorted(refused.items()))},
    }


def check_ffmpeg() -> None:
    """Raise UserError where ffmpeg is missing."""
    if not shutil.which("ffmpeg"):
        raise UserError(
            "ffmpeg, which decodes the recordings, is not installed; install it with: sudo apt install ffmpeg"
        )


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
