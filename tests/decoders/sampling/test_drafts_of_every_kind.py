"""Trees that grow, copies, phrases, tables and layers left out: the output is that of going step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from small_decoders import CARDS, random_tokens, small_decoder
from test_decode import LAWS
from test_proposers import Watched
from toys import step_by_step

from zoo.decoders.acceptance import AcceptanceHead
from zoo.decoders.autoregressive import AutoregressiveDecoder
from zoo.decoders.sampling import Law, Noise, decode, guidance
from zoo.decoders.sampling.proposers import (
    Bandit,
    CopySpec,
    DraftModel,
    DySpec,
    Exp3,
    InputCopy,
    NGram,
    OptTree,
    Phrases,
    Proposer,
    SpecDec,
    Swift,
    Trigram,
)
from zoo.decoders.sampling.proposers import Watched as Remembering

LENGTHS, STEPS = torch.tensor([5, 1, 3]), torch.tensor([14, 3, 9])
ONE = (9,)


def target(cards: tuple[int, ...] = CARDS, **options) -> AutoregressiveDecoder:
    return small_decoder(cards, layers=3, **options)


def other(cards: tuple[int, ...], **options) -> AutoregressiveDecoder:
    """Close to the target: its own weights, a little moved."""
    model = target(cards, **options)
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    return model


def small_head(cards: tuple[int, ...]) -> AcceptanceHead:
    torch.manual_seed(3)
    return AcceptanceHead(16, len(cards), inner=8).eval()


def source(cards: tuple[int, ...]) -> torch.Tensor:
    return random_tokens(target(cards), 1, 4000, seed=4)[0]


EVERY: dict[str, Callable[[tuple[int, ...]], Proposer]] = {
    "opt-tree": lambda cards: OptTree(other(cards), width=3),
    "dyspec": lambda cards: DySpec(other(cards)),
    "specdec": lambda cards: SpecDec(other(cards), small_head(cards), 0.6),
    "remembering": lambda cards: Remembering(other(cards)),
    "copyspec": lambda cards: CopySpec(1),
    "copyspec before a model": lambda cards: CopySpec(1, DraftModel(other(cards))),
    "input copy": lambda cards: InputCopy(source(cards)),
    "input copy of the prompt, before trees": lambda cards: InputCopy(fallback=OptTree(other(cards))),
    "trigram": lambda cards: Trigram(source(cards)),
    "phrases": lambda cards: Phrases(DraftModel(other(cards)), ngram=3),
    "phrases behind copies": lambda cards: Phrases(NGram(), ngram=2, most=3),
    "swift": lambda cards: Swift(trials=2, context=4),
    "exp3": lambda cards: Exp3([CopySpec(1), DraftModel(other(cards)), Trigram()]),
    "bandit of trees": lambda cards: Bandit([OptTree(other(cards)), Trigram(source(cards))]),
}


@cache
def plain(law: str, seed: int) -> torch.Tensor:
    model = target()
    return decode(model, random_tokens(model, 3, 5), STEPS, LAWS[law], Noise(seed), lengths=LENGTHS).codes


@pytest.mark.parametrize(
    ("law", "window", "seed"), [("plain", 1, 7), ("greedy", 9, 7), ("penalty", 4, 7), ("cut", 6, 8), ("plain", 12, 9)]
)
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_rows_that_begin_and_end_apart_get_the_tokens_of_plain_sampling(make, law, window, seed):
    model, proposer = target(), Watched(make(CARDS))
    prompt = random_tokens(model, 3, 5)
    found = decode(model, prompt, STEPS, LAWS[law], Noise(seed), proposer, lengths=LENGTHS, window=window)
    assert torch.equal(found.codes, plain(law, seed)) and found.exactness == "identical"
    assert any(draft.count.any() for draft in proposer.drafts)


@pytest.mark.parametrize(("law", "window"), [("cut", 8), ("penalty", 3)])
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_one_codebook_gives_the_textbook_s_tokens(make, law, window):
    model = target(ONE)
    prompt = random_tokens(model, 2, 4)
    found = decode(model, prompt, 12, LAWS[law], Noise(2), make(ONE), window=window)
    assert torch.equal(found.codes, textbook(law))


@cache
def textbook(law: str) -> torch.Tensor:
    model = target(ONE)
    return step_by_step(model, random_tokens(model, 2, 4), 12, LAWS[law], Noise(2))[:, 4:]


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_row_s_drafts_are_the_same_alone(make):
    model, law = target(), Law(temperature=0.7)
    prompt = random_tokens(model, 3, 5)
    together = decode(model, prompt, STEPS, law, Noise(7), make(CARDS), lengths=LENGTHS, window=6).trace
    for row in (1, 2):
        part, count = prompt[row : row + 1, : LENGTHS[row]], int(STEPS[row])
        alone = decode(model, part, count, law, Noise(7, (row,)), make(CARDS), window=6).trace
        assert torch.equal(alone.drafted[:, 0], together.drafted[: len(alone.drafted), row])
        assert torch.equal(alone.accepted[:, 0], together.accepted[: len(alone.accepted), row])


WITH_STRUCTURE = {
    "opt-tree": lambda model: OptTree(model, width=3),
    "dyspec": DySpec,
    "specdec": lambda model: SpecDec(model, small_head(CARDS), 0.6),
    "copyspec": lambda model: CopySpec(1),
    "input copy": lambda model: InputCopy(),
    "trigram": lambda model: Trigram(),
    "phrases": lambda model: Phrases(DraftModel(model), ngram=2),
    "swift": lambda model: Swift(trials=2, context=4),
}


@pytest.mark.parametrize("make", WITH_STRUCTURE.values(), ids=WITH_STRUCTURE)
def test_what_the_layout_fixes_and_guidance_change_nothing(make):
    model, law = target(specials=1), Law(streams=guidance(1.5))
    prompt = random_tokens(model, 4, 4)
    prompt[2:, -1] = prompt[:2, -1]  # both streams go on from the same step
    forced = torch.full((1, 20, 2), -1)
    forced[0, 5::4] = torch.tensor([11, 7])  # ids that only go in
    forced[0, 6::4, 0] = 2
    expected = decode(model, prompt, 16, law, Noise(7), forced=forced)
    found = decode(model, prompt, 16, law, Noise(7), make(other(CARDS, specials=1)), forced=forced, window=6)
    assert torch.equal(found.codes, expected.codes) and found.trace.drafted.any()
