"""Classical speech coders beside ours on the same clips, at the bitrates that they really use.

The real bitrate is 8 times the bytes of the audio packets over the seconds of the clips. For Opus the Ogg pages and the
two header packets are left out; the whole file's rate stands beside it. Codec2's bit stream has no headers, but frames
fill whole bytes, so that its 1300 is 1.4 kbps.

    python -m zoo.baselines data/test-seen data/test-unseen --clips 40 --json baselines.json
"""

from __future__ import annotations

import shutil
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import soxr

from zoo.codecs.errors import UserError
from zoo.scoring import Clip, conditions, describe, score, select, workers, write_json

RATE = 16000
TOOLS = ("opusenc", "opusdec", "c2enc", "c2dec")
OPUS_KBPS = (6.0, 8.0, 12.0)
OPUS_FRAME_MS = (20, 60)
CODEC2_MODES = (3200, 1300)
CODEC2_RATE = 8000
BASELINES = len(OPUS_FRAME_MS) * len(OPUS_KBPS) + len(CODEC2_MODES) + 1
FIT_TOLERANCE = 0.01
FIT_STEPS = 6


@dataclass(frozen=True)
class Coded:
    """What a coder made of a clip: mono audio, and the bytes that it took (0: not a coder)."""

    audio: np.ndarray
    packet_bytes: int = 0
    file_bytes: int = 0


def require_tools() -> None:
    """Raise `UserError` unless the command-line coders are installed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise UserError(f"baselines need {', '.join(missing)}: apt install opus-tools codec2")


def measure_baselines(
    pool: Callable[..., Iterator[Any]], clips: Sequence[Clip], rate: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Give a row for each of Opus (VBR, `--speech`, fitted to 6, 8 and 12 kbps), Codec2 and a plain 4 kHz low-pass.

    Args:
        pool: `map`, or one over processes.
        rate: Hz at which Opus works and all are scored.
    """
    require_tools()
    seconds = sum(clip.seconds for clip in clips)
    for frame_ms in OPUS_FRAME_MS:
        for target in OPUS_KBPS:
            bitrate, coded = fit_opus(pool, clips, rate, frame_ms, target)
            setting = f"opusenc --vbr --speech --framesize {frame_ms} --bitrate {bitrate:.3f}"
            labels = {
                "system": f"Opus near {target:g} kbps, {frame_ms} ms frames",
                "family": f"Opus, {frame_ms} ms frames",
            }
            yield labels | {"setting": setting} | _scored(pool, clips, coded, seconds, rate, seed)
    for mode in CODEC2_MODES:
        coded = list(pool(partial(codec2, rate=rate, mode=mode), clips))
        labels = {"system": f"Codec2 {mode}", "family": "Codec2"}
        yield labels | {"setting": f"c2enc {mode}, 8 kHz"} | _scored(pool, clips, coded, seconds, rate, seed)
    coded = list(pool(partial(low_pass, rate=rate), clips))
    labels = {"system": "4 kHz low-pass", "family": "4 kHz low-pass", "setting": "resampled to 8 kHz and back"}
    yield labels | _scored(pool, clips, coded, seconds, rate, seed)


def fit_opus(
    pool: Callable[..., Iterator[Any]], clips: Sequence[Clip], rate: int, frame_ms: int, target: float
) -> tuple[float, list[Coded]]:
    """The `--bitrate` whose real rate over all clips comes nearest to `target` kbps, and what it gave."""
    seconds = sum(clip.seconds for clip in clips)
    bitrate, best = target, None
    for _ in range(FIT_STEPS):
        coded = list(pool(partial(opus, rate=rate, bitrate=round(bitrate, 3), frame_ms=frame_ms), clips))
        real = sum(one.packet_bytes for one in coded) * 8 / seconds / 1000
        if best is None or abs(real - target) < best[0]:
            best = abs(real - target), round(bitrate, 3), coded
        if abs(real - target) <= FIT_TOLERANCE * target:
            break
        bitrate *= target / real
    return best[1], best[2]


def opus(clip: Clip, rate: int, bitrate: float, frame_ms: int) -> Coded:
    """The clip through `opusenc` and `opusdec`, variable bitrate, tuned for speech."""
    with TemporaryDirectory() as folder:
        source, packed, decoded = (str(Path(folder, name)) for name in ("in.wav", "out.opus", "out.wav"))
        soundfile.write(source, clip.read(rate), rate, subtype="PCM_16")
        options = ["--quiet", "--vbr", "--speech", "--framesize", str(frame_ms), "--bitrate", str(bitrate)]
        _run("opusenc", *options, source, packed)
        _run("opusdec", "--quiet", "--rate", str(rate), packed, decoded)
        data = Path(packed).read_bytes()
        audio, _ = soundfile.read(decoded, dtype="float32")
    return Coded(audio, sum(ogg_packets(data)[2:]), len(data))


def codec2(clip: Clip, rate: int, mode: int) -> Coded:
    """The clip through `c2enc` and `c2dec` at 8 kHz."""
    with TemporaryDirectory() as folder:
        source, packed, decoded = (Path(folder, name) for name in ("in.raw", "out.bit", "out.raw"))
        samples = soxr.resample(clip.read(rate), rate, CODEC2_RATE)
        source.write_bytes((samples.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
        _run("c2enc", str(mode), str(source), str(packed))
        _run("c2dec", str(mode), str(packed), str(decoded))
        audio = np.frombuffer(decoded.read_bytes(), "<i2").astype(np.float32) / 32768
        size = packed.stat().st_size
    return Coded(soxr.resample(audio, CODEC2_RATE, rate), size, size)


def low_pass(clip: Clip, rate: int) -> Coded:
    """The clip without what lies above 4 kHz: what bandwidth alone costs."""
    return Coded(soxr.resample(soxr.resample(clip.read(rate), rate, CODEC2_RATE), CODEC2_RATE, rate))


def ogg_packets(data: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg file with one stream."""
    sizes, current, position = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {position}")
        segments = data[position + 27 : position + 27 + data[position + 26]]
        for segment in segments:
            current += segment
            if segment < 255:  # a packet ends in the first segment that is not full
                sizes.append(current)
                current = 0
        position += 27 + len(segments) + sum(segments)
    return sizes


def _scored(
    pool: Callable[..., Iterator[Any]],
    clips: Sequence[Clip],
    coded: Sequence[Coded],
    seconds: float,
    rate: int,
    seed: int,
) -> dict[str, Any]:
    payload, file = (
        round(sum(sizes) * 8 / seconds / 1000, 3)
        for sizes in zip(*((one.packet_bytes, one.file_bytes) for one in coded), strict=True)
    )
    scored = score(pool, clips, [one.audio for one in coded], rate, seed)
    return {"kbps": {"payload": payload, "file": file} if file else None} | scored


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}")


def main() -> None:
    """Measure the classical coders alone, on one or more folders, and write JSON."""
    parser = ArgumentParser(prog="python -m zoo.baselines", description=main.__doc__)
    parser.add_argument("data", nargs="+", help="folders of recordings")
    parser.add_argument("--clips", type=int, help="how many recordings of each, by the stated rule (default: all)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", required=True, help="file to write")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    with workers(given.processes) as pool:
        for data in given.data:
            clips, rule = select(data, given.clips)
            results.append({"data": describe(clips, data, rule), "conditions": conditions(given.processes, "cpu")})
            results[-1]["baselines"] = []
            for row in measure_baselines(pool, clips, RATE):
                results[-1]["baselines"].append(row)
                found = {name: metric["mean"] for name, metric in row["metrics"].items()}
                print(data, row["system"], row["kbps"], found, flush=True)
    write_json(results, given.json)


if __name__ == "__main__":
    main()
