"""How much drafts bring here and in `transformers`: same weights, texts and drafts, interleaved in one process.

zoo bench assisted -o out.json
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from zoo.bench import deliver, head, one_thread, speed, timed, times_as_fast
from zoo.bench_decoders import THEIRS, as_llama, generate, loaded
from zoo.bench_requests import jobs_of
from zoo.bench_sampling import DRAFT, PLAIN
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import DraftModel, NGram, Proposer
from zoo.generation_drafts import draft_of
from zoo.generation_weights import packed
from zoo.partings import lead, scores
from zoo.scoring import conditions

STARTER = "autoregressive.text"
OURS = "ours"
BRAIN = ", bfloat16"
RULES = ("equal", "rejection", "block")

Pair = tuple[Any, Any]
"""A target and its draft model, both of one library."""
Tokens = Int[Tensor, "1 S"]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Drafting:
    """A way to draft, in the words of both libraries.

    Attributes:
        proposer: Ours, given the draft model.
        window: Most tokens of a draft of ours.
        options: What `generate` takes.
        assistants: Generation configs of their draft model, by what is added to the name of the way; empty: no model.
    """

    name: str
    proposer: Callable[[TokenModel], Proposer | None]
    window: int = 1
    options: Options = field(default_factory=dict)
    assistants: Mapping[str, Options] = field(default_factory=dict)


def drafted(tokens: int) -> Drafting:
    """By a draft model, always so many tokens."""
    said = _assistant(tokens, "constant")
    return Drafting(f"draft model, {tokens} tokens", DraftModel, tokens, assistants={"": said})


def copied(tokens: int) -> Drafting:
    """From the text so far, so many tokens."""
    return Drafting(f"copies, {tokens} tokens", lambda _: NGram(), tokens, {"prompt_lookup_num_tokens": tokens})


def _assistant(tokens: int, schedule: str) -> dict[str, Any]:
    return dict(num_assistant_tokens=tokens, num_assistant_tokens_schedule=schedule, assistant_confidence_threshold=0.0)


ADAPTED = Drafting(  # 20 tokens and 0.4 are the defaults of transformers
    "draft model, as long as it is sure",
    lambda draft: DraftModel(draft, confident=0.4),
    20,
    assistants={"": {}, ", heuristic": _assistant(5, "heuristic_transient")},
)
DRAFTINGS = (Drafting(PLAIN, lambda _: None), drafted(3), drafted(5), ADAPTED, copied(5), copied(10))


@dataclass(frozen=True)
class Way:
    """How a pair continues a text.

    Attributes:
        run: Prompt `[1, P]` and its number -> tokens.
        plain: The way of the same library and weights that drafts nothing.
        like: The way without drafts that gives the same tokens, if one does.
    """

    pair: Pair
    run: Callable[[Int[Tensor, "1 P"], int], Tokens]
    plain: str
    like: str | None


class Key(NamedTuple):
    """A way: name of the drafting, temperature, and library with weights and rule."""

    drafting: str
    temperature: float
    side: str


@dataclass(frozen=True)
class Run:
    """What a way made of a text: tokens, passes of target and draft model, wall and CPU seconds."""

    tokens: Tokens
    passes: int
    draft_passes: int
    seconds: tuple[float, float]


def bench_assisted(
    model: str = STARTER,
    draft: str = DRAFT,
    output: str | Path | None = None,
    seed: int = 0,
    as_json: bool = False,
    *,
    draftings: Sequence[Drafting] = DRAFTINGS,
    temperatures: Sequence[float] = (0.0, 0.8),
    items: int = 4,
    steps: int = 128,
) -> dict[str, Any]:
    """Measure assisted generation and prompt look-up of `transformers` beside ours at batch 1 on a CPU of one thread,
    all in turn on each text; print a table or JSON.

    Args:
        model, draft: What `zoo.load` takes; of the same tokens.
        output: Write the result here too, as JSON.
        seed: Of what is sampled.
        draftings: What is compared; the first drafts nothing.
        items: Texts to continue.
        steps: Tokens to add to each.

    Raises:
        UserError: transformers is not installed, the models are none that it has, or they don't fit each other.
    """
    target = loaded(model)
    drafter = draft_of(target, draft)
    if target.tokens.vocabulary is None:
        raise UserError(f"{model} is no decoder of text; there is nothing to continue")
    prompts = [job.prompt for job in jobs_of("text", target, items, steps)]
    ways = _ways(target, drafter, draftings, temperatures, steps, seed)
    with one_thread():
        rounds = _rounds(ways, prompts)
    rows = _rows(ways, rounds, draftings[0].name, target, prompts)
    result = {
        **head(conditions(1, "cpu", (THEIRS,))),
        "what": "batch 1, one thread, prompt included: wall and CPU seconds of a text, medians over texts; all ways "
        "take turns on each; CPU seconds leave out the time in which other processes had the processor. ratio: "
        f"{THEIRS} in float32 at the same task / this way, of each text: median, least and largest. of_plain: the same "
        "beside the same library and weights without drafts. passes, draft_passes: calls of the target, the prompt's "
        "among them, and of the draft model, over all texts. same_tokens: share of the steps up to the first that is "
        f"not that of {THEIRS} in float32 without drafts, if greedy, or of ours without drafts, if sampled; absent if "
        "only the law is the same. gap: of the best two logits, the largest at these first other steps, if greedy",
        "model": model,
        "draft": draft,
        "parameters": {"model": target.info.parameters, "draft": drafter.info.parameters},
        "prompts": [prompt.shape[1] for prompt in prompts],
        "steps": steps,
        "seed": seed,
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    return deliver(result, [_table(rows)], output, as_json, 140)


def _ways(
    target: AutoregressiveDecoder,
    draft: TokenModel,
    draftings: Sequence[Drafting],
    temperatures: Sequence[float],
    steps: int,
    seed: int,
) -> dict[Key, Way]:
    """All that is compared; those of one task lie together, first the one that the others are compared with."""
    theirs: dict[str, Pair] = {"": (as_llama(target), as_llama(draft))}
    theirs[BRAIN] = copy.deepcopy(theirs[""][0]).bfloat16(), copy.deepcopy(theirs[""][1]).bfloat16()
    ours: dict[str, Pair] = {
        "": (packed(copy.deepcopy(target), "float32"), draft),
        BRAIN: (packed(copy.deepcopy(target), "bfloat16"), draft),
    }
    found = {}
    for temperature in temperatures:
        for drafting in draftings:
            assistants: Mapping[str, Options | None] = drafting.assistants or {"": None}
            for weights, pair in theirs.items():
                for said, assistant in assistants.items():
                    run = _their_run(pair, drafting.options, assistant, temperature, steps, seed)
                    like = None if temperature else THEIRS
                    way = Way(pair, run, THEIRS + weights, like)
                    found[Key(drafting.name, temperature, THEIRS + said + weights)] = way
            for weights, pair in ours.items():
                for rule in RULES if temperature and drafting.assistants else RULES[:1]:
                    run = _our_run(pair, drafting, rule, temperature, steps, seed)
                    like = THEIRS if not temperature else OURS + weights if rule == RULES[0] else None
                    way = Way(pair, run, OURS + weights, like)
                    said = "" if rule == RULES[0] else f", {rule}"
                    found[Key(drafting.name, temperature, OURS + said + weights)] = way
    return found


def _their_run(
    pair: Pair, options: Options, assistant: Options | None, temperature: float, steps: int, seed: int
) -> Callable[[Tensor, int], Tokens]:
    target, draft = pair
    config, chosen = copy.deepcopy(draft.generation_config), dict(options)
    if assistant is not None:
        config.update(**assistant)
        chosen["assistant_model"] = draft
    if temperature:
        chosen |= {"do_sample": True, "temperature": temperature, "top_k": 0}

    def run(prompt: Tensor, number: int) -> Tokens:
        draft.generation_config = config  # only here it is asked how to draft; `generate` drops such arguments
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            return generate(target, prompt, steps, **chosen)

    return run


def _our_run(
    pair: Pair, drafting: Drafting, rule: str, temperature: float, steps: int, seed: int
) -> Callable[[Tensor, int], Tokens]:
    target, draft = pair
    law = Law(temperature=temperature)

    def run(prompt: Tensor, number: int) -> Tokens:
        options = dict(proposer=drafting.proposer(draft), rule=rule, window=drafting.window)
        return decode(target, prompt[..., None], steps, law, Noise(seed + number), **options).codes[..., 0]

    return run


def _rounds(ways: Mapping[Key, Way], prompts: Sequence[Tensor]) -> list[dict[Key, Run]]:
    """All ways in turn on each text."""
    for way in ways.values():
        way.run(prompts[0][:, :8], 0)  # warms up
    numbered = track(list(enumerate(prompts)), "texts", console=Console(stderr=True))
    return [{key: _run(way, prompt, number) for key, way in ways.items()} for number, prompt in numbered]


def _run(way: Way, prompt: Tensor, number: int) -> Run:
    given: list[Tokens] = []
    with _calls(way.pair[0]) as passes, _calls(way.pair[1]) as draft_passes:
        seconds = timed(lambda: given.append(way.run(prompt, number)), prompt.device)
    return Run(given[0], len(passes), len(draft_passes), seconds)


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[None]]:
    """An entry for each call inside."""
    calls: list[None] = []
    hook = model.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


def _rows(
    ways: Mapping[Key, Way],
    rounds: Sequence[Mapping[Key, Run]],
    plain: str,
    target: TokenModel,
    prompts: Sequence[Tensor],
) -> list[dict[str, Any]]:
    """What is told of each task."""
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    times = [{key: run.seconds for key, run in each.items()} for each in rounds]
    for key, way in ways.items():
        named = {"drafting": key.drafting, "temperature": key.temperature, "ways": {}}
        row = rows.setdefault((key.drafting, key.temperature), named)
        runs = [each[key] for each in rounds]
        passes, tokens = sum(run.passes for run in runs), sum(run.tokens.numel() for run in runs)
        row["ways"][key.side] = {
            **speed(times, key, key._replace(side=THEIRS), runs[0].tokens.numel()),
            "of_plain": times_as_fast(times, key, Key(plain, key.temperature, way.plain)),
            "tokens_a_pass": tokens / passes,
            "passes": passes,
            "draft_passes": sum(run.draft_passes for run in runs),
        }
        if way.like is not None:
            expected = [each[Key(plain, key.temperature, way.like)].tokens for each in rounds]
            given = [run.tokens for run in runs]
            row["ways"][key.side]["same_tokens"] = sum(map(_same, expected, given)) / tokens
            if not key.temperature:
                row["ways"][key.side]["gap"] = gap(target, prompts, expected, given)
    return list(rows.values())


def _same(one: Tokens, other: Tokens) -> int:
    """Steps up to the first that differs."""
    return int((one == other).long().cumprod(1).sum())


def gap(
    target: TokenModel, prompts: Sequence[Tensor], expected: Sequence[Tokens], given: Sequence[Tokens]
) -> float | None:
    """The largest difference of the best two logits where tokens part from the expected ones; None if none do."""
    found = []
    for prompt, one, other in zip(prompts, expected, given, strict=True):
        if (same := _same(one, other)) < one.shape[1]:
            found.append(lead(scores(target, torch.cat((prompt, one[:, :same]), 1)[..., None])[0]))
    return max(found, default=None)


def _table(rows: list[dict[str, Any]]) -> Table:
    heads = (
        "temperature",
        "drafting",
        "way",
        "tokens / CPU s",
        "ratio, CPU",
        "ratio, wall",
        "of plain",
        "tokens / pass",
    )
    table = Table(*heads, "same")
    for row in rows:
        for side, way in row["ways"].items():
            ratios = ["{:.2f} ({:.2f} to {:.2f})".format(*way["ratio"][kind]) for kind in ("cpu", "wall")]
            numbers = [f"{way['of_plain']['cpu'][0]:.2f}", f"{way['tokens_a_pass']:.2f}"]
            same = f"{way['same_tokens']:.1%}" if "same_tokens" in way else ""
            pace = f"{way['tokens_per_cpu_second']:.0f}"
            table.add_row(f"{row['temperature']:g}", row["drafting"], side, pace, *ratios, *numbers, same)
    return table
