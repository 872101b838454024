"""Score what a system made of recordings: which clips, its delay, each metric's mean and interval, the conditions.

Means, intervals, conditions and numbers of codebooks are those of pictures, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.codecs.audio.io import FORMATS, open_audio, read_audio
from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile
from zoo.judges import JUDGES
from zoo.recipes import metrics
from zoo.recipes.metrics import Score

METRICS = {
    "pesq_wb": metrics.pesq_wb,
    "stoi": metrics.stoi,
    "si_sdr": metrics.si_sdr,
    "mel_distance": metrics.mel_distance,
}
SUFFIXES = {*FORMATS, ".g722"}
PREFERRED_SECONDS = (2.0, 8.0)
LONGEST_SECONDS = metrics.PESQ_MAX_SECONDS
MAX_DELAY_SECONDS = 0.04
ENVELOPE_SECONDS = 0.02
RESAMPLES = 2000
USUAL_CODEBOOKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SPEECH_PACKAGES = ("torchaudio", "soxr", "pesq", "pystoi")

RULE_ALL = f"all files; of files longer than {LONGEST_SECONDS:.0f} s the first {LONGEST_SECONDS:.0f} s"
RULE_SOME = (
    "files of {0:.0f} to {1:.0f} s first, then by the SHA-256 of their path below the data folder; the first {2}"
)


@dataclass(frozen=True)
class Clip:
    """A recording to score: its path, the part of the path that names it, and how many seconds of it count."""

    path: Path
    name: str
    seconds: float

    def read(self, rate: int) -> np.ndarray:
        """Mono float32 samples at `rate`."""
        return read_audio(self.path, rate, mono=True)[0][0, : round(self.seconds * rate)]


def select(data: str | Path | Sequence[str | Path], count: int | None = None) -> tuple[list[Clip], str]:
    """Clips of a folder tree, a file or a list of files, and the rule by which they were chosen.

    Args:
        count: How many; None for all. The same files give the same clips, whatever the folder is called.

    Raises:
        UserError: No audio there, or a file that can't be read.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    clips = []
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source}: no such file or folder; give a folder of audio files, or audio files")
        root, inside = source.parent, [source]
        if source.is_dir():
            root, inside = source, [path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES]
        clips += [Clip(path, path.relative_to(root).as_posix(), _seconds(path)) for path in inside]
    if not clips:
        raise UserError(f"{', '.join(map(str, sources))}: no audio found; expected {', '.join(sorted(SUFFIXES))} files")
    if count is None:
        return sorted(clips, key=lambda clip: clip.name), RULE_ALL
    low, high = PREFERRED_SECONDS
    order = sorted(clips, key=lambda clip: (not low <= clip.seconds <= high, digest(clip.name.encode())))
    return sorted(order[:count], key=lambda clip: clip.name), RULE_SOME.format(low, high, count)


def describe(clips: Sequence[Clip], source: str, rule: str) -> dict[str, Any]:
    """Facts that pin down the data: `sha256` is of the lines "digest-of-the-file  name", as sha256sum prints them."""
    lines = "".join(f"{digest(clip.path.read_bytes())}  {clip.name}\n" for clip in clips)
    seconds = round(sum(clip.seconds for clip in clips), 2)
    return {"source": source, "rule": rule, "clips": len(clips), "seconds": seconds, "sha256": digest(lines.encode())}


def codebook_counts(info: CodecInfo, asked: Sequence[int] | None) -> list[int]:
    """Numbers of codebooks to measure: those asked for, by default the usual and all.

    Raises:
        UserError: The codec does not have so many.
    """
    if asked is None:
        return [count for count in USUAL_CODEBOOKS if count < info.codebooks] + [info.codebooks]
    wrong = [count for count in asked if not 1 <= count <= info.codebooks]
    if wrong or not asked:
        raise UserError(f"the codec has 1 to {info.codebooks} codebooks, asked for were {list(asked)}")
    return sorted(set(asked))


def conditions(processes: int, device: str, packages: Sequence[str] = SPEECH_PACKAGES) -> dict[str, Any]:
    """Command, hardware, versions (those of `packages` among them) and date."""
    hardware = {"cpu": _cpu(), "cores": os.cpu_count(), "device": device}
    if device.startswith("cuda"):
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": _command(),
        "hardware": hardware,
        "processes": processes,
        "threads_per_process": 1,
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("media-token-zoo", "torch", "numpy", *packages)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def workers(
    processes: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` over so many fresh processes of one thread each; one process is this very one.

    Args:
        prepare: Called with `arguments` at the start of each process.
    """
    if processes > 1:
        setup = partial(_prepare, prepare, arguments)
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=setup) as pool:
            yield pool.map
        return
    threads = torch.get_num_threads()
    try:
        _prepare(prepare, arguments)
        yield map
    finally:
        torch.set_num_threads(threads)


def score(
    pool: Callable[..., Iterator[Any]],
    clips: Sequence[Clip],
    estimates: Sequence[np.ndarray],
    rate: int,
    seed: int,
    judges: bool = False,
) -> dict[str, Any]:
    """Metrics of a system's estimates, the system's delay removed: one for all, as a codec's delay is constant."""
    chosen = METRICS | (JUDGES if judges else {})
    delay = common_delay(list(pool(partial(_delays, rate=rate), clips, estimates)), rate)
    scores = list(pool(partial(_scores, rate=rate, delay=delay, chosen=chosen), clips, estimates))
    return {
        "delay_samples": delay,
        "metrics": {name: summary([found[name] for found in scores], seed) for name in chosen},
    }


def common_delay(delays: Sequence[tuple[int, int]], rate: int) -> int:
    """A system's delay in samples, from those of waveform and envelope in each clip.

    The median of the waveforms', if half of the clips agree with it to two samples and the envelopes' median to 2 ms.
    A vocoder's do not: it keeps no phase, and correlation finds any of several periods. Then the envelopes' counts.
    """
    waves, envelopes = np.array(delays).T
    wave, envelope = np.median(waves), np.median(envelopes)
    agree = np.mean(np.abs(waves - wave) <= 2) >= 0.5 and abs(wave - envelope) <= 0.002 * rate
    return round(float(wave if agree else envelope))


def summary(scores: Iterable[Score], seed: int) -> dict[str, Any]:
    """Mean with its 95 % bootstrap interval over clips, how many clips count, and why the others do not."""
    scores = list(scores)
    mean, missing = metrics.mean_score(scores)
    values = np.array([score.value for score in scores if not math.isnan(score.value)])
    low = high = None
    if len(values):
        draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = (round(float(edge), 4) for edge in np.percentile(values[draws].mean(1), [2.5, 97.5]))
    reasons = Counter(score.reason for score in scores if score.reason)
    return {
        "mean": round(mean, 4) if len(values) else None,
        "low": low,
        "high": high,
        "clips": len(values),
        "missing": missing,
        "reasons": dict(reasons.most_common()),
    }


def write_json(result: Any, path: str | Path) -> None:
    """Write a result as strict JSON."""
    with AtomicFile(path) as target:
        target.file.write((json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def _prepare(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if prepare is not None:
        prepare(*arguments)


def _delays(clip: Clip, estimate: np.ndarray, rate: int) -> tuple[int, int]:
    """Delay of the waveform and of the envelope."""
    reference, reach = clip.read(rate), round(MAX_DELAY_SECONDS * rate)
    envelopes = _envelope(reference, rate), _envelope(estimate, rate)
    return metrics.delay_of(reference, estimate, reach), metrics.delay_of(*envelopes, reach)


def _envelope(signal: np.ndarray, rate: int) -> np.ndarray:
    window = np.hanning(round(ENVELOPE_SECONDS * rate))
    smooth = np.convolve(np.abs(signal), window / window.sum(), "same")
    return smooth - smooth.mean()


def _scores(
    clip: Clip, estimate: np.ndarray, rate: int, delay: int, chosen: dict[str, Callable[..., Score]]
) -> dict[str, Score]:
    pair = metrics.shift(clip.read(rate), estimate, delay)
    return {name: metric(*pair, rate) for name, metric in chosen.items()}


def _seconds(path: Path) -> float:
    """Seconds of the file that count."""
    with open_audio(path) as file:
        frames = file.frames if file.frames is not None else sum(block.shape[-1] for block in file.blocks())
        return min(LONGEST_SECONDS, frames / file.rate)


def digest(data: bytes) -> str:
    """SHA-256 as hex digits."""
    return hashlib.sha256(data).hexdigest()


def _command() -> str:
    """The command line that runs this, without the place where the program is installed."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return " ".join([f"python -m {module.name}" if module else Path(sys.argv[0]).name, *sys.argv[1:]])


def _cpu() -> str:
    """Model name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
