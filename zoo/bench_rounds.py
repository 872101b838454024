"""What a round of decoding costs beyond its forward passes, at the sizes of published models.

zoo bench rounds --json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from zoo.bench import deliver, head, one_thread
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.sampling import Law, Noise
from zoo.decoders.sampling.decode import stream
from zoo.decoders.sampling.law import guidance
from zoo.decoders.sampling.proposers import DraftModel, Jacobi, NGram, Proposer
from zoo.decoders.transformer import TransformerConfig
from zoo.pass_clock import pass_clock
from zoo.scoring import conditions


@dataclass(frozen=True)
class Shape:
    """A published decoder's shape, and how it is sampled; weights are random, which changes no cost.

    Attributes:
        config: Its shape.
        draft: That of a smaller one, as its draft.
        streams: Weights of its contexts.
        grid: Columns of a picture, for positions of two axes; 0: a sequence.
    """

    config: AutoregressiveConfig
    draft: AutoregressiveConfig
    streams: tuple[float, ...] = (1.0,)
    grid: int = 0


def _small(cards: tuple[int, ...]) -> AutoregressiveConfig:
    return AutoregressiveConfig(cards, TransformerConfig(width=256, layers=2, heads=4), 1024)


GPT2 = TransformerConfig(
    768, 12, 12, activation="tanh", norm="layer", epsilon=1e-5, qkv_bias=True, bias=True, rope=False
)
MUSIC = (2048,) * 4
SHAPES = {
    "GPT-2": Shape(AutoregressiveConfig((50257,), GPT2, 1024, learned_positions=True, tied=True), _small((50257,))),
    "LlamaGen-B": Shape(
        AutoregressiveConfig((16384,), TransformerConfig(768, 12, 12, axes=2), 1024), _small((16384,)),
        guidance(2.0), 24,
    ),
    "MusicGen-small, without its text": Shape(
        AutoregressiveConfig(
            MUSIC, TransformerConfig(1024, 24, 16, activation="gelu", norm="layer", rope=False), 1024, 1, True
        ),
        _small(MUSIC), guidance(3.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How a shape is decoded: at what temperature, with what drafts, judged by which rule."""

    temperature: float
    proposer: Callable[[AutoregressiveDecoder], Proposer | None]
    window: int = 1
    rule: str = "equal"


WAYS = {
    "one step at a time, greedy": Way(0.0, lambda draft: None),
    "one step at a time, temperature 1": Way(1.0, lambda draft: None),
    "ngram, window 4, greedy": Way(0.0, lambda draft: NGram(), 4),
    "draft model, window 4, greedy": Way(0.0, DraftModel, 4),
    "draft model, window 4, temperature 1, block": Way(1.0, DraftModel, 4, "block"),
    "jacobi, window 16, greedy": Way(0.0, lambda draft: Jacobi(), 16),
    "jacobi, window 16, temperature 1, rejection": Way(1.0, lambda draft: Jacobi(), 16, "rejection"),
}


def bench_rounds(
    output: str | Path | None = None,
    seed: int = 0,
    as_json: bool = False,
    *,
    shapes: dict[str, Shape] = SHAPES,
    prompt: int = 64,
    rounds: int = 12,
    repeats: int = 3,
) -> dict[str, Any]:
    """Measure, at batch 1 on one thread of a CPU, in float32; print a table or JSON.

    Args:
        output: Write the result here too, as JSON.
        seed: Of weights and of the prompt.
        shapes: By name.
        prompt: Steps that are given.
        rounds: Of each run.
        repeats: Runs, of which the median counts.
    """
    rows = []
    with one_thread():
        for name, shape in track(shapes.items(), "shapes", console=Console(stderr=True)):
            rows += list(_measured(name, shape, seed, prompt, rounds, repeats))
    result = {
        **head(conditions(1, "cpu")),
        "what": "batch 1, one thread, float32, random weights in published shapes, CPU time: milliseconds of the "
        "target's forward pass, of the draft's passes and of all else in a round; overhead: all else, as a share of "
        "the target's pass. Medians of runs",
        "seed": seed,
        "rows": rows,
    }
    table = Table("shape", "way", "pass", "drafts", "all else", "overhead", title="milliseconds of a round")
    for row in rows:
        times = [f"{row[part]:.1f}" for part in ("target_ms", "drafts_ms", "else_ms")]
        table.add_row(f"{row['shape']}, {row['parameters'] / 1e6:.0f} M", row["way"], *times, f"{row['overhead']:.1%}")
    return deliver(result, [table], output, as_json, 130)


def _measured(name: str, shape: Shape, seed: int, prompt: int, rounds: int, repeats: int) -> Iterator[dict[str, Any]]:
    """All ways in turn, as often as asked for."""
    torch.manual_seed(seed)
    target, draft = (AutoregressiveDecoder(config).eval() for config in (shape.config, shape.draft))
    cards = torch.tensor(shape.config.cards)
    given = (torch.rand(len(shape.streams), prompt, len(cards)) * cards).long()
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for repeat in range(repeats + 1):
        for said, way in WAYS.items():
            times = _run(target, draft, given, shape, way, rounds)
            if repeat:  # the first run warms up
                found[said].append(times)
    for said, runs in found.items():
        passes, drafts, rest = (1e3 * statistics.median(part) for part in zip(*runs, strict=True))
        yield {
            "shape": name, "parameters": target.info.parameters, "way": said, "target_ms": passes, "drafts_ms": drafts,
            "else_ms": rest, "overhead": statistics.median(each[2] / each[0] for each in runs),
        }  # fmt: skip


def _run(
    target: AutoregressiveDecoder, draft: AutoregressiveDecoder, given: Int[Tensor, "C P Q"], shape: Shape, way: Way,
    rounds: int,
) -> tuple[float, float, float]:  # fmt: skip
    """CPU seconds of a round in the target's pass, in the draft's passes, and in all else."""
    positions = None
    steps = (rounds + 1) * (way.window + 1)
    if shape.grid:
        place = torch.arange(given.shape[1] + steps + way.window + 1)
        positions = torch.stack((place // shape.grid, place % shape.grid), -1)[None]
    law = Law(temperature=way.temperature, streams=shape.streams)
    with pass_clock(target) as clock:
        run = stream(
            target, given, steps, law, Noise(0), way.proposer(draft), way.rule, window=way.window, positions=positions
        )
        next(run)  # reads the prompt
        clock.target = clock.drafts = 0.0
        start = time.process_time()
        for _ in islice(run, rounds - 1):
            pass
        spent = time.process_time() - start
    count, rest = rounds - 1, spent - clock.target - clock.drafts
    return clock.target / count, clock.drafts / count, rest / count
