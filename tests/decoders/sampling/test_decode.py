"""The loop gives what plain sampling gives, whatever drafts, windows, trees, batches, prompts and stops are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Known, Random, Toy, Tree, adversary, every_kind

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling import Draft, Law, Noise, decode, guidance, stream
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.sampling.proposers import DraftModel, NGram, Proposer
from zoo.decoders.transformer import Conditioning

ROWS, STEPS, NOISE = 3, 14, Noise(7)
LAWS = {
    "plain": Law(),
    "greedy": Law(temperature=0),
    "cut": Law(temperature=0.8, top_k=5, top_p=0.9),
    "penalty": Law(temperature=0.7, processors=(RepetitionPenalty(1.5),)),
}


@pytest.fixture(scope="module")
def model() -> TokenModel:
    return small_decoder(layers=2)


@pytest.fixture(scope="module")
def prompt(model) -> torch.Tensor:
    return random_tokens(model, ROWS, 4)


def sequentially(
    model: TokenModel,
    prompt: torch.Tensor,
    steps: int,
    law: Law,
    noise: Noise,
    row: int,
    forced: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sampling as it is in textbooks, of one row `[P, Q]`: every step runs the model on all that came before."""
    whole, noise = prompt.clone(), Noise(noise.seed, rows=(row,))
    for step in range(len(prompt), len(prompt) + steps):
        logits = model(whole[None]).logits[:, -1]
        logp = law(logits, whole[None])
        next = (logp + noise.gumbel(torch.tensor([[step]]), *logp.shape[1:])[:, 0]).argmax(-1)[0]
        if forced is not None and step < len(forced):
            next = torch.where(forced[step] >= 0, forced[step], next)
        whole = torch.cat((whole, next[None]))
    return whole[len(prompt) :]


def proposers(model: TokenModel, whole: torch.Tensor) -> dict[str, Proposer | None]:
    other = small_decoder(layers=1, seed=5)
    return every_kind(whole, other) | {"n-gram": NGram(), "same draft": DraftModel(model)}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_proposer_gives_the_tokens_of_sequential_sampling(model, prompt, law):
    expected = torch.stack([sequentially(model, part, STEPS, law, NOISE, row) for row, part in enumerate(prompt)])
    whole = torch.cat((prompt, expected), 1)
    for name, proposer in proposers(model, whole).items():
        for window in (1, 3, 8):
            found = decode(model, prompt, STEPS, law, NOISE, proposer, window=window)
            assert torch.equal(found.codes, expected), (name, window)
            assert found.exactness == "identical"


def test_log_probabilities_are_those_of_the_law(model, prompt):
    law = LAWS["penalty"]
    found = decode(model, prompt, STEPS, law, NOISE, Random())
    whole = torch.cat((prompt, found.codes), 1)
    for step in range(STEPS):
        seen = whole[:, : 4 + step]
        logp = law(model(seen).logits[:, -1], seen).gather(-1, whole[:, 4 + step, :, None])[..., 0]
        assert torch.allclose(found.logp[:, step], logp, atol=1e-5)


@pytest.mark.parametrize("rule", ["equal", "rejection"])
def test_a_row_gives_the_same_alone_and_beside_any_neighbours(model, prompt, rule):
    lengths = torch.tensor([4, 1, 2])
    steps = torch.tensor([5, STEPS, 9])
    draft = DraftModel(small_decoder(layers=1, seed=5))
    together = decode(model, prompt, steps, noise=NOISE, proposer=draft, rule=rule, lengths=lengths)
    assert together.lengths.tolist() == [5, STEPS, 9]
    for row, (length, count) in enumerate(zip(lengths.tolist(), steps.tolist(), strict=True)):
        part, noise = prompt[row : row + 1, :length], Noise(NOISE.seed, rows=(row,))
        alone = decode(model, part, count, noise=noise, proposer=draft, rule=rule)
        assert torch.equal(alone.codes[0], together.codes[row, :count])
        assert torch.allclose(alone.logp[0], together.logp[row, :count], atol=1e-5)
        assert (together.codes[row, count:] == -1).all() and not together.logp[row, count:].any()
        trace = together.trace
        assert torch.equal(alone.trace.emitted[:, 0], trace.emitted[: len(alone.trace.emitted), row])


def test_what_lies_behind_a_prompt_is_ignored(model, prompt):
    lengths = torch.tensor([4, 1, 2])
    junk = prompt.clone()
    junk[1, 1:], junk[2, 2:] = -1, 6
    results = [decode(model, part, 6, noise=NOISE, proposer=NGram(), lengths=lengths) for part in (prompt, junk)]
    assert torch.equal(results[0].codes, results[1].codes)


def test_going_on_from_what_came_gives_what_going_on_would_have(model, prompt):
    whole = decode(model, prompt, 10, noise=NOISE)
    first = decode(model, prompt, 4, noise=NOISE, proposer=Random())
    second = decode(model, torch.cat((prompt, first.codes), 1), 6, noise=NOISE, proposer=NGram())
    assert torch.equal(torch.cat((first.codes, second.codes), 1), whole.codes)


def test_seeds_differ(model, prompt):
    codes = [decode(model, prompt, 10, noise=Noise(seed)).codes for seed in (1, 1, 2)]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])
    rows = decode(model, prompt[:1].expand(3, -1, -1), 10, noise=Noise(1)).codes
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("proposer", ["none", "right", "tree", "same draft"])
def test_a_row_ends_with_its_first_stop_wherever_in_a_block_it_comes(model, prompt, proposer):
    expected = decode(model, prompt, 30, noise=NOISE)
    whole = torch.cat((prompt, expected.codes), 1)
    stops = [2, 9]
    found = decode(
        model, prompt, 30, noise=NOISE, proposer=proposers(model, whole)[proposer], stop=stops, window=6
    )  # fmt: skip
    ends = torch.isin(expected.codes[..., 0], torch.tensor(stops))
    assert ends.any(1).all()
    for row in range(ROWS):
        length = int(ends[row].int().argmax()) + 1
        assert found.lengths[row] == length
        assert torch.equal(found.codes[row, :length], expected.codes[row, :length])
        assert (found.codes[row, length:] == -1).all()
    assert found.codes.shape[1] == found.lengths.max()
    assert torch.equal(found.trace.emitted.sum(0), found.lengths)


@pytest.mark.parametrize("proposer", ["none", "random", "wrong", "same draft", "tree"])
def test_the_layout_s_tokens_stand_at_their_steps_and_are_nobody_s_merit(prompt, proposer):
    model = small_decoder(layers=2, specials=2)
    forced = torch.full((9, 2), -1)
    forced[5, 0], forced[6], forced[8, 1] = 3, torch.tensor([12, 8]), 7  # 12, 8 and 7 are ids that can't come out
    expected = torch.stack([sequentially(model, part, 8, Law(), NOISE, row, forced) for row, part in enumerate(prompt)])
    whole = torch.cat((prompt, expected), 1)
    assert (whole[:, 6] == torch.tensor([12, 8])).all()
    drafts = proposers(model, whole.where(whole < torch.tensor([11, 7]), 0))
    drafts["same draft"] = DraftModel(model)
    for rule in ("equal",) if proposer == "tree" else ("equal", "rejection"):
        found = decode(model, prompt, 8, noise=NOISE, proposer=drafts[proposer], rule=rule, forced=forced[None])
        codes = torch.cat((prompt, found.codes), 1)
        assert (codes[:, :9].where(forced >= 0, -1) == forced).all()
        assert not found.logp[:, 2].any() and not found.logp[:, 1, 0].any() and found.logp[:, 1, 1].all()
        if rule == "equal":
            assert torch.equal(found.codes, expected)
        if proposer == "same draft":
            assert torch.equal(found.trace.accepted, found.trace.drafted)
            whole_steps = found.trace.emitted.sum(0) - found.trace.accepted.sum(0)
            assert (whole_steps >= 1).all()
    if proposer == "none":
        assert not found.trace.drafted.any()


def test_guidance_is_two_contexts_in_step():
    model = small_decoder(layers=2, cross=4, conditioning=("text",))
    prompt = random_tokens(model, 2, 3)
    texts = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = torch.tensor([True, True, False, False])[:, None].expand(-1, 2)  # the condition, then none
    law = Law(streams=guidance(2.5))
    both = torch.cat((prompt, prompt))
    whole = prompt.clone()
    for step in range(3, 11):
        logits = [
            model(whole, state=model.init_state(2, 0, Conditioning(texts[part], there[part]))).logits[:, -1]
            for part in (slice(0, 2), slice(2, 4))
        ]
        guided = logits[1] + 2.5 * (logits[0] - logits[1])
        logp = law(guided.masked_fill(logits[0].isneginf(), -torch.inf))
        next = (logp + NOISE.gumbel(torch.full((2, 1), step), *logp.shape[1:])[:, 0]).argmax(-1)
        whole = torch.cat((whole, next[:, None]), 1)
    for proposer in (None, Random(), Known(whole), Tree(whole), DraftModel(small_decoder(layers=1))):
        found = decode(model, both, 8, law, NOISE, proposer, cond=Conditioning(texts, there))
        assert torch.equal(found.codes, whole[:, 3:])


def test_contexts_may_differ_in_prompt_and_length(model, prompt):
    """Context-aware decoding: the second context lacks the first step."""
    law, steps = Law(streams=(1.5, -0.5)), 6
    both = torch.cat((prompt, prompt[:, 1:].new_zeros(ROWS, 4, 2)))
    both[ROWS:, :3] = prompt[:, 1:]
    lengths = torch.tensor([4] * ROWS + [3] * ROWS)
    found = decode(model, both, steps, law, NOISE, Random(), lengths=lengths)
    whole = torch.cat((prompt, found.codes), 1)
    for step in range(4, 4 + steps):
        logits = 1.5 * model(whole[:, :step]).logits[:, -1] - 0.5 * model(whole[:, 1:step]).logits[:, -1]
        logits = logits.masked_fill(logits.isnan(), -torch.inf)
        logp = Law()(logits)
        next = (logp + NOISE.gumbel(torch.full((ROWS, 1), step), *logp.shape[1:])[:, 0]).argmax(-1)
        assert torch.equal(next, whole[:, step])


@pytest.mark.parametrize("law", [Law(), Law(temperature=0), LAWS["penalty"]], ids=["plain", "greedy", "penalty"])
def test_codes_that_depend_on_each_other_are_drawn_in_turn(law):
    toy = Toy((3, 4, 2), depth=True)
    prompt = torch.tensor([[[1, 2, 0], [0, 3, 1]], [[2, 2, 1], [2, 0, 0]]])
    whole = prompt
    for step in range(2, 10):
        hidden, next = toy(whole).hidden[:, -1:], torch.zeros(2, 3, dtype=torch.int64)
        for book in range(3):
            logp = law(toy.depth(hidden, next[:, None])[:, 0], whole)
            gumbel = NOISE.gumbel(torch.full((2, 1), step), *logp.shape[1:])[:, 0]
            next[:, book] = (logp + gumbel).argmax(-1)[:, book]
        whole = torch.cat((whole, next[:, None]), 1)
    for proposer in (None, Random(), Known(whole), Known(whole, wrong=True), NGram()):
        found = decode(toy, prompt, 8, law, NOISE, proposer)
        assert torch.equal(found.codes, whole[:, 2:])


def test_a_draft_of_the_truth_takes_one_forward_pass_a_window(model, prompt):
    expected = decode(model, prompt, STEPS, noise=NOISE).codes
    for proposer in (Known(torch.cat((prompt, expected), 1)), DraftModel(model)):
        for rule in ("equal", "rejection"):
            if rule == "rejection" and isinstance(proposer, Known):
                continue  # one truth of many
            trace = decode(model, prompt, STEPS, noise=NOISE, proposer=proposer, rule=rule, window=4).trace
            assert trace.emitted[:, 0].tolist() == [5, 5, 4]
            assert torch.equal(trace.accepted, trace.drafted) and (trace.acceptance == 1).all()
            assert trace.tokens_per_forward.tolist() == pytest.approx([STEPS / 3] * ROWS)


def test_n_grams_copy_what_followed_and_go_round_periods():
    prompt = torch.tensor([[5, 1, 2, 3, 9, 1, 2], [4, 4, 4, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5, 6], [1, 2, 1, 2, 1, 2, 1]])
    drafts = []

    class Spy(NGram):
        def propose(self, ctx, n):
            drafts.append(super().propose(ctx, n))
            return drafts[-1]

    decode(Toy((10,)), prompt[..., None], 2, proposer=Spy(longest=2), window=4)
    assert drafts[0].tokens[[0, 1, 3], :, 0].tolist() == [[3, 9, 1, 2], [4, 4, 4, 4], [2, 1, 2, 1]]
    assert drafts[0].count.tolist() == [4, 4, 0, 4]
    with pytest.raises(ValueError, match="3 to 2"):
        NGram(longest=2, shortest=3)


def test_a_draft_model_knows_what_was_accepted_and_nothing_else(model, prompt):
    """The law that it drafts from is that of a fresh pass over the true prefix and its own draft."""
    other, rounds = small_decoder(layers=1, seed=5), []

    class Spy(DraftModel):
        def propose(self, ctx, n):
            known = [ctx.tokens[row, :length].clone() for row, length in enumerate(ctx.length.tolist())]
            draft = super().propose(ctx, n)
            rounds.append((known, draft))
            return draft

    lengths = torch.tensor([4, 1, 3])
    result = decode(model, prompt, STEPS, noise=NOISE, proposer=Spy(other), rule="rejection", lengths=lengths)
    accepted = {int(n) for n in result.trace.accepted.flatten()}
    assert len(accepted) > 2, "few and many must have been accepted for this test to mean something"
    for known, draft in rounds:
        for row, prefix in enumerate(known):
            for step in range(int(draft.count[row])):
                seen = torch.cat((prefix, draft.tokens[row, :step]))[None]
                assert torch.allclose(draft.logq[row, step], Law()(other(seen).logits[0, -1]), atol=1e-5)
    assert result.trace.draft_forwards.tolist()[:2] == [5, 5]


def test_the_trace_adds_up():
    toy = Toy((5,))
    result = decode(toy, torch.ones(4, 3, 1).long(), 12, proposer=DraftModel(adversary(toy)), rule="rejection")
    trace = result.trace
    assert toy.calls == int(trace.target_forwards.sum()) + 1 == len(trace.seconds) + 1  # one for the prompt
    assert torch.equal(trace.emitted.sum(0), result.lengths)
    live = trace.emitted > 0
    assert ((trace.emitted - trace.accepted)[live] <= 1).all() and (trace.accepted <= trace.drafted).all()
    assert not trace.emitted[~live].any() and not trace.drafted[~live].any()
    assert (trace.seconds > 0).all() and trace.prefill_seconds > 0


def test_steps_come_as_they_are_found(model, prompt):
    whole = decode(model, prompt, STEPS, noise=NOISE)
    rounds, parts = stream(model, prompt, STEPS, noise=NOISE, proposer=DraftModel(model), window=3), [[], [], []]
    while True:
        try:
            outcome = next(rounds)
        except StopIteration as end:
            result = end.value
            break
        for row in range(ROWS):
            parts[row].append(outcome.tokens[row, : outcome.count[row]].clone())
    assert torch.equal(torch.stack([torch.cat(row) for row in parts]), whole.codes)
    assert torch.equal(result.codes, whole.codes)


def test_the_state_holds_every_known_step_but_the_last(model, prompt):
    class Spy(Random):
        def observe(self, ctx, outcome):
            assert torch.equal(ctx.state.length, ctx.length - 1)
            fresh = model(ctx.tokens[:1, : ctx.length[0]])
            again = model(ctx.last[:, None], state=ctx.state.fork())
            assert torch.allclose(again.logits[0, -1], fresh.logits[0, -1], atol=1e-5)
            assert torch.allclose(ctx.hidden[0], fresh.hidden[0, -2])

    decode(model, prompt, STEPS, noise=NOISE, proposer=Spy(), stop=3)


def test_a_context_can_be_filled_to_its_last_step():
    model = small_decoder(layers=1, context=12, learned_positions=True, rope=False)
    prompt = random_tokens(model, 2, 5)
    lengths = torch.tensor([5, 2])
    plain = decode(model, prompt, 7, noise=NOISE, lengths=lengths)
    found = decode(model, prompt, 7, noise=NOISE, lengths=lengths, proposer=Known(prompt), window=6)
    assert torch.equal(plain.codes, found.codes)
    with pytest.raises(ValueError, match="13 steps, prompt included, for a model of 12"):
        decode(model, prompt, 8, lengths=lengths)


class Careless(Proposer):
    """Drafts two steps, and for rows without room any number of them."""

    def __init__(self, beyond: int):
        self.beyond = beyond

    def propose(self, ctx, n):
        tokens = torch.zeros(ctx.rows, min(n, 2), 2).long()
        return Draft(tokens, torch.where(ctx.room > 0, tokens.shape[1], self.beyond))


@pytest.mark.parametrize("checked", [True, False])
def test_what_is_drafted_for_rows_without_room_is_ignored(model, prompt, checked, monkeypatch):
    monkeypatch.setattr(model, "checked", checked)
    law, steps = Law(processors=(RepetitionPenalty(1.3),)), torch.tensor([2, STEPS, 4])
    plain = decode(model, prompt, steps, law, NOISE)
    for beyond in (-1, 9):
        found = decode(model, prompt, steps, law, NOISE, Careless(beyond))
        assert torch.equal(found.codes, plain.codes) and (found.trace.drafted >= 0).all()


class Bad(Proposer):
    def __init__(self, draft: Draft):
        self.draft = draft

    def propose(self, ctx, n):
        return self.draft


def tree(*parents: int) -> torch.Tensor:
    return torch.tensor([parents] * 3)


def test_proposers_that_break_their_promise_are_named(model, prompt):
    three = torch.full((3,), 2)
    zeros = torch.zeros(3, 2, 2).long()
    for draft, message in [
        (Draft(zeros + 7, three), r"Bad drafted tokens outside the vocabulary \(11, 7\)"),
        (Draft(zeros - 1, three), "outside the vocabulary"),
        (Draft(torch.zeros(3, 6, 2).long(), three), r"Bad drafted \[3, 6, 2\]; asked for \[3, 5 or less, 2\]"),
        (Draft(zeros[:2], three[:2]), "asked for"),
        (Draft(zeros[..., :1], three), "asked for"),
        (Draft(zeros, three * 2), r"Bad drafted \[4, 4, 4\] nodes into 2 slots"),
        (Draft(zeros, three[:2]), r"Bad drafted a count of \[2\]; expected one for each of 3 rows"),
        (None, "Bad drafted NoneType; expected a Draft"),
        (Draft(zeros, three, tree(-2, -1)), r"Bad drafted a tree of parents \[-2, -1\]; expected of each node a slot"),
        (Draft(zeros, three, tree(-1, 1)), r"parents \[-1, 1\]"),
        (Draft(zeros, three, tree(1, 0)), r"parents \[1, 0\]"),
        (Draft(zeros, three, tree(-1)), r"parents of \[3, 1\]"),
        (Draft(zeros, three, None, zeros[..., None] * 0.0), r"from laws of \[3, 2, 2, 1\]; expected \[3, 2, 2, 11\]"),
        (Draft(zeros, three, None, torch.full((3, 2, 2, 11), torch.nan)), "Bad drafted from laws that hold NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode(model, prompt, 9, proposer=Bad(draft))
    with pytest.raises(ValueError, match="Bad drafts trees, which the rule Rejection does not take"):
        decode(model, prompt, 9, proposer=Bad(Draft(zeros, three, zeros[..., 0] - 1)), rule="rejection")
    with pytest.raises(ValueError, match=r"cards \(3,\), the target \(11, 7\)"):
        decode(model, prompt, 9, proposer=DraftModel(Toy()))


class Gapped(DraftModel):
    """Its drafts end before a slot, or have a gap there, and behind that a node that is no bet either."""

    def __init__(self, slot: int, filled: bool):
        super().__init__(small_decoder(layers=1, seed=4))
        self.slot, self.filled = slot, filled

    def propose(self, ctx, n):
        draft = super().propose(ctx, n)
        if not self.filled or draft.slots <= self.slot:
            return replace(draft, count=draft.count.clamp(max=self.slot))
        logq = draft.logq.clone()
        logq[:, self.slot, 1].scatter_(-1, draft.tokens[:, self.slot, 1:], -torch.inf)
        return replace(draft, logq=logq)


@pytest.mark.parametrize("rule", ["rejection", "block", "coupled", "gumbel"])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_node_that_its_own_law_calls_impossible_is_no_bet(model, prompt, rule, slot):
    whole, part = (
        decode(model, prompt, 8, noise=NOISE, proposer=Gapped(slot, filled), rule=rule) for filled in (True, False)
    )
    assert torch.equal(whole.codes, part.codes) and torch.equal(whole.trace.accepted, part.trace.accepted)


def test_what_is_behind_a_draft_s_count_may_be_anything(model, prompt):
    expected = decode(model, prompt, 6, noise=NOISE)
    junk = Draft(torch.full((3, 4, 2), 10**9), torch.zeros(3).long())
    assert torch.equal(decode(model, prompt, 6, noise=NOISE, proposer=Bad(junk)).codes, expected.codes)


def test_bad_input_gives_one_clear_error(model, prompt):
    for message, arguments in {
        "at least one step": (model, prompt[:, :0], 3),
        r"prompt is \[3, 4\]": (model, prompt[..., 0], 3),
        r"expected \[rows, steps, 2\]": (model, prompt[..., :1], 3),
        "steps are 0": (model, prompt, 0),
        "steps are tensor": (model, prompt, torch.tensor([1, 2])),
        "3 rows for a law of 2 streams": (model, prompt, 3, Law(streams=(2.0, -1.0))),
        "not causal": (small_decoder(causal=False), prompt, 3),
        "outside the vocabulary": (model, prompt + 9, 3),
    }.items():
        with pytest.raises(ValueError, match=message):
            decode(*arguments)
    with pytest.raises(ValueError, match=r"lengths \[4, 5, 1\]"):
        decode(model, prompt, 3, lengths=torch.tensor([4, 5, 1]))
    with pytest.raises(ValueError, match=r"forced tokens are \[1, 3\]; expected \[3 or 1, steps, 2\]"):
        decode(model, prompt, 3, forced=torch.full((1, 3), -1))
    for positions, wanted in [(torch.arange(4)[None], "3 or 1, 6 or more"), (torch.arange(9).expand(2, -1), "3 or 1")]:
        with pytest.raises(ValueError, match=rf"positions are .*; expected \[{wanted}"):
            decode(model, prompt, 3, positions=positions)
    with pytest.raises(ValueError, match="window is 0"):
        decode(model, prompt, 3, proposer=NGram(), window=0)


def test_nan_logits_are_an_error_and_no_tokens(prompt):
    model = small_decoder(layers=1)
    with torch.no_grad():
        model.heads.product.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        decode(model, prompt, 3)
