"""How good a codec is on recordings, at each of its rates: quality, real bitrate, speed, use of the codebooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from zoo import registry
from zoo.baselines import BASELINES, measure_baselines, require_tools
from zoo.codecs.base import AudioCodec, CodecInfo
from zoo.codecs.files import AtomicFile
from zoo.recipes.metrics import Score
from zoo.roundtrip import Trip, at_level, load_worker, round_trip
from zoo.scoring import (
    Clip,
    codebook_counts,
    conditions,
    describe,
    score,
    select,
    summary,
    workers,
    write_json,
)

ORIGINAL = {"system": "original", "family": "original", "kbps": None}
PASSES = 3  # over the clips for each row: code them, find the delay, score them


def evaluate(
    model: str | AudioCodec,
    data: str | Path | Sequence[str | Path],
    codebooks: Sequence[int] | None = None,
    clips: int | None = None,
    seed: int = 0,
    baselines: bool = False,
    levels: Sequence[float] = (),
    judges: bool = False,
    device: str = "cpu",
    processes: int = 2,
    json_file: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Tokenize and reconstruct recordings through real `.ztok` files and score what comes out.

    Args:
        model: What `zoo.load` takes, or a codec.
        data: A folder tree, an audio file, or a list of them.
        codebooks: Numbers of codebooks to use (default: 1, 2, 3, 4, 6, 8, ... and all).
        clips: How many recordings, chosen by the rule that the result states (default: all).
        seed: Of the bootstrap.
        baselines: Also score Opus, Codec2 and a low-pass on the same clips.
        levels: Gains in dB to apply before the codec and to take back behind it: is it robust to level?
        judges: Also ask the listeners of `zoo.judges`, of the untouched originals, too.
        device: Where the codec computes.
        processes: Worker processes of one thread each; 1 works in this process.
        json_file: Write the result here too.

    Returns:
        What `json_file` holds: codec, data, conditions, `rows` (one a rate), `codebooks`, `levels`, `baselines`.

    Raises:
        UserError: No such model or data, no such number of codebooks, or a baseline's program is missing.
    """
    codec = registry.load_codec(model) if isinstance(model, str) else model
    info = codec.info
    counts = codebook_counts(info, codebooks)
    if baselines:
        require_tools()
    if json_file is not None:
        AtomicFile(json_file).discard()  # a place that cannot be written is refused before the work
    chosen, rule = select(data, clips)
    steps = PASSES * (len(counts) + (BASELINES if baselines else 0)) + len(levels) + (PASSES - 1) * judges
    with Progress(disable=not progress) as bar, workers(processes, load_worker, codec, device) as pool:
        task = bar.add_task("evaluate", total=steps * len(chosen))

        def tracked(function: Callable[..., Any], *lists: Sequence[Any]) -> Iterator[Any]:
            for found in pool(function, *lists):
                bar.advance(task)
                yield found

        rows, histograms = [], []
        for count in counts:
            trips = list(tracked(partial(round_trip, codebooks=count), chosen))
            rows.append(_row(codec, count, trips, chosen, tracked, seed, judges))
            histograms = [trip.histograms for trip in trips]
        delay = rows[-1]["delay_samples"]
        others = []
        if judges:
            originals = [clip.read(info.sample_rate) for clip in chosen]
            others.append(ORIGINAL | score(tracked, chosen, originals, info.sample_rate, seed, judges))
        level_rows = []
        for level in levels:
            found = list(tracked(partial(at_level, decibels=level, codebooks=counts[-1], delay=delay), chosen))
            level_rows.append(_level_row(level, counts[-1], found, seed))
        if baselines:
            for row in measure_baselines(pool, chosen, info.sample_rate, seed):
                others.append(row)
                bar.advance(task, PASSES * len(chosen))
    result = {
        "codec": {"name": codec.name, "weights": codec.weights}
        | info.asdict()
        | {"codebook_sizes": list(info.codebook_sizes)},
        "data": describe(chosen, _source(data), rule),
        "conditions": conditions(processes, device),
        "rows": rows,
        "codebooks": _codebook_rows(info, histograms),
        "levels": level_rows,
        "baselines": others,
    }
    if json_file is not None:
        write_json(result, json_file)
    return result


def _row(
    codec: AudioCodec,
    count: int,
    trips: Sequence[Trip],
    clips: Sequence[Clip],
    pool: Callable[..., Any],
    seed: int,
    judges: bool,
) -> dict[str, Any]:
    seconds = sum(clip.seconds for clip in clips)
    payload, file, encode, decode = (
        sum(getattr(trip, name) for trip in trips)
        for name in ("payload_bytes", "file_bytes", "encode_seconds", "decode_seconds")
    )
    return {
        "system": f"{codec.name or 'codec'}, {count} codebook{'s' * (count > 1)}",
        "family": codec.name or "codec",
        "codebooks": count,
        "kbps": {
            "computed": codec.info.kbps(count),
            "payload": round(payload * 8 / seconds / 1000, 3),
            "file": round(file * 8 / seconds / 1000, 3),
        },
        "speed": {"encode": round(seconds / encode, 1), "decode": round(seconds / decode, 1), "threads": 1},
    } | score(pool, clips, [trip.audio for trip in trips], codec.info.sample_rate, seed, judges)


def _level_row(level: float, count: int, found: Sequence[tuple[Score, float]], seed: int) -> dict[str, Any]:
    equal = [share for _, share in found]
    return {
        "decibels": level,
        "codebooks": count,
        "pesq_wb": summary([score for score, _ in found], seed),
        "equal_codes": round(sum(equal) / len(equal), 6),
        "clips_with_all_codes_equal": sum(share == 1 for share in equal),
    }


def _codebook_rows(info: CodecInfo, histograms: Sequence[Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """Use of each codebook over all clips at the highest rate: share of codes that came, perplexity, entropy."""
    rows = []
    for book, counts in enumerate(np.sum(one, axis=0) for one in zip(*histograms, strict=True)):
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log2(share)).sum())
        rows.append(
            {
                "codebook": book,
                "size": info.codebook_sizes[book],
                "codes": int(counts.sum()),
                "used": round(len(share) / len(counts), 4),
                "perplexity": round(2**entropy, 2),
                "entropy_bits": round(entropy, 4),
                "bits": math.ceil(math.log2(len(counts))),
            }
        )
    return rows


def _source(data: str | Path | Sequence[str | Path]) -> str:
    return str(data) if isinstance(data, str | Path) else ", ".join(map(str, data))
