"""How much faster drafts make decoding: all methods in turn on the same requests, beside one step at a time.

zoo bench sampling --json out.json
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from zoo import registry
from zoo.bench import deliver, head, one_thread, timed
from zoo.bench_judges import Judge, judge_of
from zoo.bench_requests import Job, jobs_of
from zoo.codecs.errors import UserError
from zoo.decoders.sampling import Result
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.two_stage import TwoStageDecoder
from zoo.generation_codes import Codes, Sampling, draw_codes
from zoo.generation_request import sampling_for
from zoo.generation_weights import packed
from zoo.partings import Parting, parting
from zoo.pass_clock import pass_clock
from zoo.scoring import conditions

PLAIN = "one step at a time"
EACH = 1000  # passes for a codebook: more than it has places, each of which then has its own
BLOCKS = (1, 2, 3, 4, 5, 6, 8, 9, 13, 17, 25, 33, 37)  # slots of a forward pass that are timed


@dataclass(frozen=True)
class Method:
    """A way to decode; options are those of `zoo generate`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def _drafting(proposer: str, *windows: int, rule: str = "equal") -> list[Method]:
    said = "" if rule == "equal" else f", {rule}"
    return [
        Method(f"{proposer}, window {window}{said}", dict(proposer=proposer, window=window, rule=rule))
        for window in windows
    ]


DRAFT, HEADS = "autoregressive.text-draft", "heads.text"
TEXT = [
    *_drafting(f"draft:{DRAFT}", 3, 5),
    *_drafting(f"draft:{DRAFT}", 5, rule="rejection"),
    *_drafting(f"draft:{DRAFT}", 5, rule="block"),
    *_drafting(f"opt-tree:{DRAFT}", 8),
    *_drafting(f"opt-tree:{DRAFT}", 8, rule="recursive"),
    *_drafting(f"dyspec:{DRAFT}", 8),
    *_drafting(f"dyspec:{DRAFT}", 8, rule="recursive"),
    *_drafting(f"staged:{DRAFT}+ngram", 5),
    *_drafting(f"suffix-automaton+draft:{DRAFT}", 6),
    *_drafting(f"phrases+draft:{DRAFT}", 10),  # a chain of 4 and two phrases
    *_drafting("suffix-automaton", 8),
    *_drafting("copyspec", 8),
    *_drafting("ngram", 8),
    *_drafting("trigram", 5),
    *_drafting("recycling", 8),
    *_drafting("lookahead", 8),
    *_drafting("jacobi", 5),
    *_drafting("bandit+suffix-automaton+trigram", 8),
    *_drafting("exp3+suffix-automaton+trigram", 8),
    *_drafting("swift", 4),
    *_drafting("early-exit:2", 4),
    *_drafting(f"heads:{HEADS},width=1", 3, 4),
    *_drafting(f"heads:{HEADS},width=1", 4, rule="rejection"),
    *_drafting(f"heads:{HEADS},width=1", 4, rule="block"),
    *_drafting(f"heads:{HEADS}", 8),
    *_drafting(f"suffix-automaton:shortest=3+heads:{HEADS},width=1", 8),
    *_drafting(f"draft:{DRAFT}", 5, rule="typical"),
    *_drafting(f"draft:{DRAFT}", 5, rule="lenient"),
    *_drafting(f"draft:{DRAFT}", 5, rule="top_k"),
]
SPOKEN = [
    *_drafting("jacobi", 2, 4, 8),
    *_drafting("jacobi", 4, 8, rule="rejection"),
    *_drafting("jacobi", 8, rule="coupled"),
    *_drafting("jacobi", 8, rule="gumbel"),
    *_drafting("ngram", 4),
]
FORCED = [  # of a decoder that has learned to see through guesses
    *_drafting("jacobi", 4, 8, 12, 16, 24, 32),
    *_drafting("jacobi:last", 16),
    *_drafting("jacobi", 16, rule="typical"),
    *_drafting("ngram", 4),
]
DRAWN = [
    *_drafting("jacobi", 4, 8, 16),
    *_drafting("jacobi", 4, 8, 16, rule="rejection"),
    *_drafting("jacobi", 8, 24, 36, rule="coupled"),
    *_drafting("jacobi", 8, 24, 36, rule="gumbel"),
    *_drafting("jacobi:above", 24, 36, 44, rule="gumbel"),
    *_drafting("recycling", 8),
    *_drafting("ngram", 4),
    *(Method(f"zipar, window {window}", dict(zipar=window)) for window in (1, 2, 3)),
]
ONE_PLACE = Method("one place a pass", dict(passes=[EACH] * 4))
HALVED = Method("half as many passes for each finer codebook")
ORDERS = ("rescored", "entropy", "margin", "halton", "random", "spans", "remask")
EAGER = ("local-leap", "threshold", "prophet")
FILLED = [
    *(Method(f"as many, {chooser}", dict(chooser=chooser)) for chooser in ORDERS),
    *(Method(chooser, dict(chooser=chooser)) for chooser in EAGER),
]


def _ahead(plain: Method) -> Method:
    return Method(f"{plain.name}, drafting 3 steps ahead", plain.options | dict(proposer="self", window=3))


@dataclass(frozen=True)
class Task:
    """A starter, what is asked of it, and how.

    Attributes:
        decoder: Name.
        temperature, guidance: Of the law.
        methods: To be compared.
        plain: What with.
        judge: The decoder that the judge of its pictures is bundled with; default: itself.
    """

    medium: str
    decoder: str
    temperature: float
    methods: Sequence[Method]
    guidance: float = 1.0
    plain: Method = Method(PLAIN)
    judge: str | None = None

    @property
    def name(self) -> str:
        return f"{self.medium}, temperature {self.temperature:g}"


MASKED = [_ahead(ONE_PLACE), HALVED, *FILLED]
TASKS = (
    Task("text", "autoregressive.text", 0.0, TEXT),
    Task("text", "autoregressive.text", 0.8, TEXT),
    Task("audio", "conditioned.speech-16khz", 0.5, SPOKEN, guidance=2.0),
    Task("audio", "two-stage.speech-16khz-forced", 0.0, FORCED),
    Task("audio", "two-stage.speech-16khz-forced", 0.5, FORCED),
    Task("audio", "conditioned-masked.speech-16khz", 0.5, [_ahead(HALVED), *FILLED], 3.0, HALVED),
    Task("image", "conditioned.shapes", 1.0, DRAWN),
    Task("image", "conditioned-masked.shapes", 1.0, MASKED, 2.0, ONE_PLACE, "conditioned.shapes"),
)


def bench_sampling(
    output: str | Path | None = None,
    seed: int = 0,
    as_json: bool = False,
    *,
    tasks: Sequence[Task] = TASKS,
    media: Collection[str] = (),
    methods: Collection[str] = (),
    weights: str = "float32",
    items: int = 6,
    steps: int = 128,
) -> dict[str, Any]:
    """Measure methods at batch 1 on a CPU of one thread, all in turn on each request; print tables or JSON.

    Args:
        output: Write the result here too, as JSON.
        seed: Of the noise.
        tasks: What is asked, of which decoder.
        media: Of the tasks, those of these media alone; default: all.
        methods: Beside one step at a time, those that have one of these words in their name; default: all.
        weights: The matrices of all targets in that: a name in `fast.WEIGHTS`.
        items: Requests.
        steps: Tokens of a text; pictures and speech are whole.

    Raises:
        UserError: A decoder is not at hand, another type of weights, or nothing is left to be measured.
    """
    tasks = [
        replace(task, methods=[each for each in task.methods if any(word in each.name for word in methods or [""])])
        for task in tasks
        if not media or task.medium in media
    ]
    if methods:
        tasks = [task for task in tasks if task.methods]
    if not tasks:
        raise UserError(f"no task of {', '.join(media) or 'any medium'} has a method named {', '.join(methods)}")
    with one_thread():
        rows = [_measure(task, weights, items, steps, seed) for task in tasks]
    result = {
        **head(conditions(1, "cpu")),
        "what": "batch 1, one thread, without reading the prompt. steps_a_pass, codes_a_pass: what came out / "
        "forward passes of the target; of two stages, steps and passes of the first one, but for codes_a_pass. "
        "ratio: seconds of one step at a time / seconds of this method, on the same "
        "request in the same round: median, least and largest over requests; CPU seconds leave out the time in which "
        "other processes had the processor. same: share of the codes that are those of one step at a time up to the "
        "first other one. gap: where an identical method of a decoder that goes step by step parts from that, by how "
        "much the best score was ahead of the second one there, the largest over requests: of logits, if greedy, else "
        "of log-probabilities with their noise; gap_step: the step of that request, 0 behind the prompt; null if it "
        "never parts. exactness: what the method declares, beside the process that it stands for, step by step. "
        "another_process: it fills in by other passes than the first method, or in another order, and stands for a "
        "process of another law. nats: mean negative log-probability of a code under the law. expected: ratio if "
        "nothing but forward passes took time, from `block`, milliseconds of a target's pass of so many slots, and "
        "from draft_seconds, CPU seconds in passes of all that drafts, models and heads, in these very runs. "
        "overhead: CPU seconds outside of all forward passes, as a share of those inside the target's. quality: share "
        "of the pictures that show what was asked for (accuracy), share of the words that a recogniser misunderstands "
        "(word_errors)",
        "weights": weights,
        "seed": seed,
        "items": items,
        "rows": rows,
    }
    return deliver(result, [_table(row) for row in rows], output, as_json, 150)


def _measure(task: Task, weights: str, items: int, steps: int, seed: int) -> dict[str, Any]:
    """All methods in turn on each request."""
    decoder: Any = packed(registry.load_decoder(task.decoder, "cpu"), weights)
    jobs = jobs_of(task.medium, decoder, items, steps)
    law = dict(temperature=task.temperature, guidance=task.guidance, seed=seed)
    ways = {
        method.name: sampling_for(decoder, task.medium, **(law | method.options))
        for method in (task.plain, *task.methods)
    }
    block = block_times(decoder, 1 if task.guidance == 1 else 2) if decoder.info.causal else None
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for number, job in enumerate(track(jobs, task.name, console=Console(stderr=True))):
        for name, sampling in ways.items():
            found[name].append(run(decoder, job, number, sampling))
    plain = found[task.plain.name]
    judge = judge_of(task.medium, task.judge or task.decoder, decoder)
    rows = []
    for method in (task.plain, *task.methods):
        runs, sampling = found[method.name], ways[method.name]
        facts = _row(method.name, runs, plain, jobs, sampling, block, judge)
        rows.append(facts | {"another_process": another_process(method, task.plain)})
        if decoder.info.causal and runs is not plain and facts["exactness"] == Exactness.IDENTICAL:
            rows[-1] |= widest_gap(
                parting(decoder, job, number, sampling, theirs.results, ours.results)
                for number, (job, theirs, ours) in enumerate(zip(jobs, plain, runs, strict=True))
            )
    return {
        "medium": task.medium,
        "decoder": task.decoder,
        "parameters": decoder.info.parameters,
        "temperature": task.temperature,
        "guidance": task.guidance,
        "load_average": os.getloadavg()[0],
        "block": {str(slots): 1e3 * seconds for slots, seconds in (block or {}).items()},
        "methods": rows,
    }


@dataclass(frozen=True)
class Run:
    """What a method made of a request.

    Attributes:
        codes, results: What came out.
        steps: Those of the results that came step by step: of two stages the first one's.
        wall, cpu: Seconds of the rounds.
        inside, drafting, outside: CPU seconds of the whole request in forward passes of the target, in those of all
            that drafts, and outside of all passes.
    """

    codes: Codes
    results: list[Result]
    steps: list[Result]
    wall: float
    cpu: float
    inside: float
    drafting: float
    outside: float


def run(decoder: Any, job: Job, number: int, sampling: Sampling) -> Run:
    """Draw one request; seconds are those of the rounds alone."""
    drawn: Any = None

    def draw() -> None:
        nonlocal drawn
        drawn = draw_codes(
            decoder, decoder.tokens.layout, [job.shape], [number], job.cond, sampling, job.prompt, job.stop
        )

    with pass_clock(decoder) as clock:
        wall, cpu = timed(draw, torch.device("cpu"))
    rounds = sum(float(result.trace.seconds.sum()) for result in drawn.results)
    outside = cpu - clock.target - clock.drafts
    steps = drawn.results[:-1] if isinstance(decoder, TwoStageDecoder) else drawn.results
    return Run(drawn.codes[0], drawn.results, steps, rounds, cpu * rounds / wall, clock.target, clock.drafts, outside)


def block_times(
    decoder: Any, streams: int, blocks: Sequence[int] = BLOCKS, behind: int = 128, repeats: int = 9
) -> dict[int, float]:
    """CPU seconds of a forward pass of so many slots behind a prefix."""
    info, found = decoder.info, {}
    behind = min(behind, info.context - max(BLOCKS))
    axes = info.axes

    def places(first: int, count: int) -> Int[Tensor, "R N *axes"]:
        line = torch.arange(first, first + count).expand(streams, -1)
        return line if axes == 1 else line[..., None].expand(-1, -1, axes)

    with torch.inference_mode():
        state = decoder.init_state(streams, behind + max(BLOCKS))
        tokens = torch.zeros(streams, behind + max(BLOCKS), info.codebooks, dtype=torch.int64)
        decoder(tokens[:, :behind], places(0, behind), state)
        state.commit(None, behind)
        for slots in blocks:
            block, positions = tokens[:, :slots], places(behind, slots)
            decoder(block, positions, state)
            times = []
            for _ in range(repeats):
                start = time.process_time()
                decoder(block, positions, state)
                times.append(time.process_time() - start)
            found[slots] = statistics.median(times)
    return found


def _row(
    name: str,
    runs: list[Run],
    plain: list[Run],
    jobs: list[Job],
    sampling: Sampling,
    block: dict[int, float] | None,
    judge: Judge | None,
) -> dict[str, Any]:
    """What is told of a method."""
    whole = sum(int(result.trace.target_forwards.sum()) for each in runs for result in each.results)
    traces = [result.trace for each in runs for result in each.steps]
    passes = sum(int(trace.target_forwards.sum()) for trace in traces)
    emitted = sum(int(trace.emitted.sum()) for trace in traces)
    drafts = sum(int(trace.draft_forwards.sum()) for trace in traces)
    drafted, accepted = (sum(int(getattr(trace, kind).sum()) for trace in traces) for kind in ("drafted", "accepted"))
    codes = sum(
        each.codes.numel() - (0 if job.prompt is None else job.prompt.numel())
        for each, job in zip(runs, jobs, strict=True)
    )
    logp = torch.cat([result.logp.flatten() for each in runs for result in each.results])
    known = block is not None and sampling.zipar is None  # rows side by side have blocks of many lengths
    drafting = sum(each.drafting for each in runs)
    costs = {"expected": _expected(block, sampling, passes, drafting, emitted)} if known else {}
    return {
        "method": name,
        "exactness": runs[0].results[0].exactness.value,
        "steps_a_pass": emitted / passes,
        "codes_a_pass": codes / whole,
        "drafted_a_pass": drafted / passes,
        "accepted_a_pass": accepted / passes,
        "draft_passes_a_pass": drafts / passes,
        "draft_seconds": drafting,
        "codes_a_second": codes / sum(each.wall for each in runs),
        "ratio": {kind: ratios(plain, runs, kind) for kind in ("wall", "cpu")},
        **costs,
        "overhead": sum(each.outside for each in runs) / sum(each.inside for each in runs),
        "same": statistics.mean(same(ours.codes, theirs.codes) for ours, theirs in zip(runs, plain, strict=True)),
        "nats": None if sampling.law.certain else -float(logp.sum()) / codes,
        "quality": {} if judge is None else judge([each.codes for each in runs], jobs),
    }


def _expected(block: dict[int, float], sampling: Sampling, passes: int, drafting: float, emitted: int) -> float:
    """How many times as fast this is if nothing but forward passes takes time.

    Args:
        drafting: CPU seconds in passes of all that drafts.
    """
    window = 0 if sampling.proposer is None else sampling.window
    target = block[min((count for count in BLOCKS if count > window), default=BLOCKS[-1])]
    return emitted * block[1] / (passes * target + drafting)


def another_process(method: Method, plain: Method) -> bool:
    """Whether a decoder that fills in does it by other passes, or in another order: what it draws has another law."""
    return any(method.options.get(name) != plain.options.get(name) for name in ("passes", "schedule", "chooser"))


def widest_gap(partings: Iterable[Parting | None]) -> dict[str, Any]:
    """Of the requests, the parting that rounding explains least."""
    found = max((each for each in partings if each is not None), key=lambda each: each.gap, default=None)
    return {"gap": None, "gap_step": None} if found is None else {"gap": found.gap, "gap_step": found.step}


def ratios(plain: list[Run], runs: list[Run], kind: str) -> list[float]:
    """How many times as fast, for each step that came out: median, least and largest."""

    def pace(each: Run) -> float:
        return getattr(each, kind) / sum(int(result.lengths.sum()) for result in each.results)

    found = sorted(pace(theirs) / pace(ours) for theirs, ours in zip(plain, runs, strict=True))
    return [statistics.median(found), found[0], found[-1]]


def same(ours: Codes, theirs: Codes) -> float:
    """Share of the steps along time, or of cells in order, up to the first that differs."""
    if ours.shape != theirs.shape:
        length = min(ours.shape[1], theirs.shape[1])
        share = same(ours[:, :length], theirs[:, :length])
        return share * length / theirs.shape[1]
    equal = (ours == theirs).flatten(1).all(0)
    return float(equal.long().cumprod(0).float().mean())


def _table(row: dict[str, Any]) -> Table:
    title = f"{row['decoder']}, temperature {row['temperature']:g}"
    columns = ("method", "exactness", "process", "steps / pass", "codes / s", "ratio, wall", "expected", "same", "gap")
    measured = [name.replace("_", " ") for name in row["methods"][0]["quality"]]
    table = Table(*columns, *measured, title=title)
    for method in row["methods"]:
        wall = "{:.2f} ({:.2f} to {:.2f})".format(*method["ratio"]["wall"])
        numbers = [f"{method[key]:.2f}" for key in ("steps_a_pass", "codes_a_second")]
        expected = f"{method['expected']:.2f}" if "expected" in method else ""
        quality = [f"{value:.0%}" for value in method["quality"].values()]
        gap = "" if method.get("gap") is None else f"{method['gap']:.1g}"
        told = [expected, f"{method['same']:.0%}", gap, *quality]
        process = "another" if method["another_process"] else ""
        table.add_row(method["method"], method["exactness"], process, *numbers, wall, *told)
    return table
