"""A law is one function of logits and prefix, whichever way it is asked."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.decoders.sampling import Draft, Law, guidance
from zoo.decoders.sampling.processors import Mirostat, NoRepeat, RepetitionAware, RepetitionPenalty, seen


def some_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    total = sum(math.exp(x - largest) for x in logits)
    return [math.exp(x - largest) / total for x in logits]


def until(order: list[int], p: list[float], mass: float) -> set[int]:
    kept, total = set(), 0.0
    for token in order:
        if total >= mass:
            break
        kept.add(token)
        total += p[token]
    return kept


def plainly(logits: list[float], law: Law) -> list[float]:
    """The law of one code, from its definition."""
    p = softmax([x / law.temperature for x in logits])

    def keep(kept: set[int]) -> None:
        total = sum(p[token] for token in kept)
        p[:] = [p[token] / total if token in kept else 0.0 for token in range(len(p))]

    falling = sorted(range(len(p)), key=lambda token: -p[token])
    if law.top_k:
        keep(set(falling[: law.top_k]))
    if law.top_p:
        keep(until(falling, p, law.top_p))
    if law.min_p:
        keep({token for token in range(len(p)) if p[token] >= law.min_p * max(p)})
    if law.typical:
        entropy = -sum(x * math.log(x) for x in p if x)
        there = [token for token in falling if p[token]]
        keep(until(sorted(there, key=lambda token: abs(-math.log(p[token]) - entropy)), p, law.typical))
    return p


@pytest.mark.parametrize(
    "law",
    [
        Law(),
        Law(temperature=0.5),
        Law(top_k=4),
        Law(top_k=99),
        Law(top_p=0.7),
        Law(top_p=1.0),
        Law(min_p=0.2),
        Law(typical=0.6),
        Law(temperature=1.5, top_k=9, top_p=0.8, min_p=0.1, typical=0.9),
    ],
    ids=str,
)
def test_settings_mean_what_their_papers_say(law):
    logits = some_logits(3, 2, 12)
    found = law(logits).exp()
    for row in range(3):
        for book in range(2):
            assert found[row, book].tolist() == pytest.approx(plainly(logits[row, book].tolist(), law), abs=1e-6)


def test_temperature_0_is_certain_of_the_first_of_the_most_probable_tokens():
    logp = Law(temperature=0, top_p=0.5)(torch.tensor([[1.0, 3.0, 3.0], [-math.inf, -5.0, -math.inf]]))
    assert logp.tolist() == [[-math.inf, 0, -math.inf], [-math.inf, 0, -math.inf]]


@pytest.mark.parametrize(
    ("law", "kept"),
    [
        (Law(top_k=2), 3),  # of equally probable ones, all
        (Law(top_p=0.3), 2),  # ids decide: 0.25 is not enough
        (Law(min_p=1.0), 3),
        (Law(typical=0.3), 2),
        (Law(top_k=1, top_p=1.0, typical=1.0), 3),
    ],
    ids=str,
)
def test_equally_probable_tokens_are_cut_as_documented(law, kept):
    logp = law(torch.tensor([0.3, 0.3, 0.3, 0.1]).log())
    assert torch.isfinite(logp).tolist() == [token < kept for token in range(4)]
    assert logp[:kept].exp().tolist() == pytest.approx([1 / kept] * kept)


def test_the_last_token_left_survives_every_truncation():
    logits = torch.full((1, 5), -math.inf)
    logits[0, 3] = -80.0
    law = Law(temperature=2.0, top_k=99, top_p=1e-6, min_p=1.0, typical=1e-6)
    assert law(logits).tolist() == [[-math.inf, -math.inf, -math.inf, 0.0, -math.inf]]


def test_forbidden_tokens_stay_forbidden():
    logits = some_logits(2, 1, 6)
    logits[:, :, ::2] = -math.inf
    for law in (Law(), Law(top_k=5), Law(top_p=0.9), Law(min_p=0.01), Law(typical=0.9), Law(temperature=0)):
        logp = law(logits)
        assert logp[:, :, ::2].isneginf().all() and logp.exp().sum(-1) == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_law_are_refused(temperature):
    law = Law(temperature=temperature)
    with pytest.raises(ValueError, match="NaN logits"):
        law(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(ValueError, match=r"no token possible.*\[1\]"):
        law(torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0}, {"top_p": 0.0},
        {"top_p": 1.1}, {"min_p": -0.1}, {"typical": 2.0}, {"streams": ()}, {"streams": (1.0, 0.0)},
        {"streams": (-1.0,)}, {"plausible": 0.0, "streams": (1.0, -1.0)}, {"plausible": 0.1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Law(**settings)


def test_guidance_moves_from_the_stream_without_condition_towards_the_other():
    with_it, without = some_logits(2, 1, 1, 5), some_logits(2, 1, 1, 5, seed=1)
    state = Law(streams=guidance(3.0)).start(torch.zeros(2, 1, 1, dtype=torch.int64))
    combined = state.combine(torch.cat((with_it, without)))
    assert torch.allclose(combined, without + 3 * (with_it - without), atol=1e-5)
    assert guidance(1) == (1.0,)


def test_what_a_stream_of_positive_weight_forbids_is_forbidden_and_the_other_forbids_nothing():
    first, second = torch.tensor([[[[0.0, -math.inf, 1.0]]]]), torch.tensor([[[[0.0, -math.inf, -math.inf]]]])
    state = Law(streams=(2.0, -1.0)).start(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert state.combine(torch.cat((first, second)))[0, 0, 0, 1].isneginf()
    with pytest.raises(ValueError, match="infinitely probable"):  # token 2
        state(state.combine(torch.cat((first, second))))
    state = Law(streams=(2.0, 1.0)).start(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert state(state.combine(torch.cat((first, second)))).exp()[0, 0, 0].tolist() == pytest.approx([1, 0, 0])


def test_contrast_counts_only_where_the_first_stream_finds_a_token_plausible():
    expert, amateur = some_logits(2, 3, 1, 6), some_logits(2, 3, 1, 6, seed=1)
    law = Law(streams=(1.0, -1.0), plausible=0.2)
    state = law.start(torch.zeros(2, 1, 1, dtype=torch.int64))
    found = state(state.combine(torch.cat((expert, amateur))))
    p, q = expert.softmax(-1), amateur.softmax(-1)
    ratio = (p / q) * (p >= 0.2 * p.amax(-1, keepdim=True))
    assert torch.allclose(found.exp(), ratio / ratio.sum(-1, keepdim=True), atol=1e-5)
    assert 6 < torch.isfinite(found).sum() < 36, "some must be plausible and others not for this test to mean something"


def test_repeated_tokens_of_the_same_codebook_are_penalised():
    logits = torch.tensor([[[2.0, -2.0, 2.0, -2.0], [2.0, -2.0, 2.0, -2.0]]])
    prefix = torch.tensor([[[0, 3], [1, 3], [-1, 5]]])  # ids that can't come out count for nothing
    law = Law(processors=(RepetitionPenalty(2.0),))
    expected = torch.tensor([[[1.0, -4.0, 2.0, -2.0], [2.0, -2.0, 2.0, -4.0]]]).log_softmax(-1)
    assert torch.allclose(law(logits, prefix), expected)
    late = Law(processors=(RepetitionPenalty(2.0, window=2),))
    expected = torch.tensor([[[2.0, -4.0, 2.0, -2.0], [2.0, -2.0, 2.0, -4.0]]]).log_softmax(-1)
    assert torch.allclose(late(logits, prefix), expected)
    with pytest.raises(ValueError, match="give it"):
        law(logits)
    with pytest.raises(ValueError, match="positive"):
        RepetitionPenalty(0)


def test_tokens_are_counted_within_their_row_and_window():
    tokens = torch.tensor([[[1], [1], [2]], [[0], [2], [2]]])
    assert seen(tokens, torch.tensor([3, 2]), 3)[:, 0].tolist() == [[0, 2, 1], [1, 0, 1]]
    assert seen(tokens, torch.tensor([3, 2]), 3, window=1)[:, 0].tolist() == [[0, 0, 1], [0, 0, 1]]


def one_by_one(law: Law, prefix: torch.Tensor, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Law at the end of a path of one row: tokens `[N, Q]`, logits `[N + 1, Q, V]`."""
    state, every = law.start(prefix[None]), torch.tensor([True])
    found = state(logits[:1, None])
    for token, logit in zip(tokens, logits[1:], strict=True):
        state.advance(token[None], every)
        found = state(logit[None, None])
    return found[0, 0]


PROCESSED = [
    Law(processors=(RepetitionPenalty(1.7),)),
    Law(processors=(Mirostat(1.5, 0.5),), top_k=5),
    Law(processors=(RepetitionPenalty(3.0, window=2), Mirostat(1.5, 0.5)), temperature=0.7),
    Law(processors=(RepetitionPenalty(1.7), Mirostat(1.5, 0.5)), temperature=0),
    Law(processors=(RepetitionAware(0.3, 3), NoRepeat(2)), top_p=0.5),
]


@pytest.mark.parametrize("law", PROCESSED, ids=range(len(PROCESSED)))
@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_processors_see_along_a_draft_what_they_see_step_by_step_and_forget_what_falls(law, kind):
    torch.manual_seed(3)
    rows, slots, codebooks, vocabulary = 4, 6, 2, 7
    prefix = torch.randint(vocabulary, (rows, 3, codebooks))
    tokens, next = torch.randint(vocabulary, (rows, slots, codebooks)), torch.randint(vocabulary, (rows, codebooks))
    parent = torch.tensor([-1, 0, 0, 2, 1, 4]).expand(rows, -1)
    draft = Draft(tokens, torch.tensor([6, 4, 0, 5]), parent if kind == "tree" else None)
    ways = draft.ancestors().expand(rows, -1, -1)
    logits, later = (
        some_logits(rows, slots + 1, codebooks, vocabulary),
        some_logits(rows, 1, codebooks, vocabulary, seed=9),
    )
    state = law.start(prefix)
    found = state.block(logits, draft)
    for row in range(rows):
        for node in range(-1, int(draft.count[row])):
            way = ways[row, node].nonzero()[:, 0] if node >= 0 else torch.zeros(0, dtype=torch.int64)
            block = torch.cat((torch.tensor([0]), way + 1))
            expected = one_by_one(law, prefix[row], tokens[row, way], logits[row, block])
            assert torch.allclose(found[row, node + 1], expected, atol=1e-6)
    last = [5, 2, -1, 0]  # accepted: the way to this node
    accepted = [
        ways[row, node].nonzero()[:, 0] if node >= 0 else torch.zeros(0).long() for row, node in enumerate(last)
    ]
    path = torch.stack([torch.cat((way, torch.zeros(slots - len(way)).long())) for way in accepted])
    state.settle(torch.tensor([len(way) for way in accepted]), path if kind == "tree" else None)
    moves = torch.tensor([True, True, True, False])
    state.advance(next, moves)
    behind = state(later)
    for row, way in enumerate(accepted[:3]):
        went = torch.cat((tokens[row, way], next[row][None]))
        met = torch.cat((logits[row, torch.cat((torch.tensor([0]), way + 1))], later[row]))
        assert torch.allclose(behind[row, 0], one_by_one(law, prefix[row], went, met), atol=1e-6)


def test_a_fork_moves_on_its_own():
    law, prefix = Law(processors=(RepetitionPenalty(2.0),)), torch.tensor([[[0]], [[1]]])
    state, logits = law.start(prefix), some_logits(2, 1, 1, 4)
    before = state(logits)
    fork = state.fork()
    fork.advance(torch.tensor([[2], [2]]), torch.tensor([True, True]))
    assert torch.equal(state(logits), before) and not torch.equal(fork(logits), before)
