"""What copies, remembers and foretells bets on what it says that it bets on."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_drafts_of_every_kind import other, target
from test_lookahead import Chain
from test_proposers import GREEDY
from toys import Known, Toy

from zoo.decoders.acceptance import AcceptanceHead, Verdicts, train_acceptance
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import (
    CopySpec,
    DraftModel,
    Exp3,
    InputCopy,
    Phrases,
    Proposer,
    SpecDec,
    SuffixAutomaton,
    Swift,
    Trigram,
    Watched,
)

NOISE = Noise(7)


class Spy(Proposer):
    """Keeps each draft of row 0 as a list, with the steps known before it."""

    def __init__(self, inner: Proposer):
        self.inner, self.seen = inner, []
        self.start, self.observe = inner.start, inner.observe

    def propose(self, ctx, n):
        draft = self.inner.propose(ctx, n)
        known = ctx.tokens[0, : ctx.length[0], 0].tolist()
        self.seen.append((known, draft.tokens[0, : draft.count[0], 0].tolist()))
        return draft


def line(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens)[None, :, None]


# Copies


def test_a_block_is_copied_from_behind_the_last_place_of_the_same_steps():
    toy, spy = Toy((4,)), Spy(CopySpec(2))
    decode(toy, line(0, 1, 2, 0, 1, 3, 0, 1), 30, noise=NOISE, proposer=spy, window=4)
    assert spy.seen[0][1] == [3, 0, 1, 3]  # and around, as a match that overlaps the end is a period
    copied = 0
    for known, draft in spy.seen:
        ends = [end for end in range(2, len(known)) if known[end - 2 : end] == known[-2:]]
        assert bool(draft) == bool(ends)
        if ends:
            copied += 1
            whole = known + (known[ends[-1] :] * 4)
            assert draft == whole[len(known) :][: len(draft)]
    assert 3 < copied < len(spy.seen)
    with pytest.raises(ValueError, match="matches of 0 steps"):
        CopySpec(0)


def test_the_source_is_copied_until_the_output_differs_and_on_from_the_one_place_where_it_agrees_again():
    """The output leaves out a step of the source, and has another one instead of a second."""
    source = [3, 1, 4, 1, 5, 9, 2, 6, 7, 8, 0]
    output = [3, 1, 4, 5, 9, 2, 0, 7, 8, 0]
    model = Chain([0] * 10)
    spy = Spy(InputCopy(torch.tensor(source)[:, None]))

    class Says(Chain):
        def run(self, tokens, positions, state, block_mask):
            found = super().run(tokens, positions, state, block_mask)
            wanted = torch.tensor(output + [0] * 9)[positions.clamp(max=len(output))]
            return found._replace(logits=9.0 * torch.nn.functional.one_hot(wanted, 10)[:, :, None].float())

    model = Says([0] * 10)
    found = decode(model, line(9), len(output), GREEDY, proposer=spy, window=4)
    assert found.codes[0, :, 0].tolist() == output
    assert [(known[1:], draft) for known, draft in spy.seen] == [
        ([], [3, 1, 4, 1]),  # the last one falls
        ([3, 1, 4, 5], [9, 2, 6, 7]),  # 5 stands in one place
        ([3, 1, 4, 5, 9, 2, 0], []),  # behind 0 the source ends
        ([3, 1, 4, 5, 9, 2, 0, 7], [8, 0]),
    ]


def test_a_source_that_is_the_output_takes_one_pass_a_window():
    model = target((9,))
    prompt = random_tokens(model, 1, 4)
    whole = decode(model, prompt, 40, noise=NOISE)
    found = decode(model, prompt, 40, noise=NOISE, proposer=InputCopy(whole.codes[0]), window=9)
    assert torch.equal(found.codes, whole.codes) and found.trace.emitted.flatten().tolist() == [10] * 4


# Tables and phrases


def test_a_table_finds_what_a_pair_of_steps_determines():
    """The next step follows from the last one, so that behind one turn of the cycle all is known."""
    model = Chain([3, 0, 1, 4, 2, 6, 7, 5])
    for law in (GREEDY, Law(temperature=0.5)):
        trace = decode(model, line(1), 60, law, NOISE, Trigram(), window=5).trace
        assert (trace.emitted[8:14] >= 5).all(), trace.emitted
    corpus = torch.tensor([1, 0, 3, 4, 2, 1, 0])[:, None]
    ready = decode(model, line(2, 1), 20, GREEDY, proposer=Trigram(corpus), window=5).trace
    assert ready.emitted[0] == 6


def test_rare_candidates_are_walked_only_where_that_is_asked():
    toy, corpus = Toy((3,)), torch.tensor([0, 1, 2] * 9 + [0, 1, 1])[:, None]
    children: list[int] = []

    class Wide(Trigram):
        def propose(self, ctx, n):
            draft = super().propose(ctx, n)
            children.append(int((draft.parent[0, : draft.count[0]] == -1).sum()))
            return draft

    for explore, widest in ((0.0, 1), (50.0, 2)):
        children.clear()
        proposer = Wide(corpus, explore=explore, rate=0.1)
        decode(toy, line(0, 1), 4, GREEDY, proposer=proposer, window=6)
        assert children[0] == widest
    for arguments in (dict(width=0), dict(explore=-1.0), dict(rate=0.0)):
        with pytest.raises(ValueError, match="expected 1 or more, 0 or more"):
            Trigram(**arguments)


def test_a_phrase_lengthens_the_draft_that_it_begins_behind():
    """The chain knows one step; what came behind that step in an earlier turn comes as a phrase."""
    model = Chain([3, 0, 1, 4, 2, 5])

    class Next(Proposer):
        def propose(self, ctx, n):
            return DraftModel.propose(self.inner, ctx, 1)

        def start(self, ctx):
            self.inner = DraftModel(model)
            self.inner.start(ctx)

        def observe(self, ctx, outcome):
            self.inner.observe(ctx, outcome)

    plain = decode(model, line(1), 40, GREEDY, proposer=Next(), window=4).trace
    found = decode(model, line(1), 40, GREEDY, proposer=Phrases(Next(), ngram=2, most=1), window=4).trace
    assert (plain.emitted[:-1] == 2).all() and (found.emitted[6:-1] == 3).all()
    for arguments in ((1, 1, 1), (2, 0, 1), (2, 1, 0)):
        with pytest.raises(ValueError, match="expected 1 or more, of 2 steps or more"):
            Phrases(Next(), *arguments)
    with pytest.raises(ValueError, match="Trigram drafts trees, which have no last step"):
        decode(model, line(0, 3), 9, GREEDY, proposer=Phrases(Trigram()))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Trigram, "corpus of Trigram"),
        (InputCopy, "source of InputCopy"),
        (SuffixAutomaton, "corpus of SuffixAutomaton"),
    ],
)
def test_steps_that_are_none_of_the_target_s_are_named(make, name):
    toy, good = Toy((4, 3)), torch.tensor([[0, 1], [5, 4], [3, 2]] * 3)  # 5 and 4 only go in
    prompt = torch.zeros(1, 3, 2).long()
    decode(toy, prompt, 4, noise=NOISE, proposer=make(good))
    for given, message in {
        good[:, :1]: r"is torch.int64 \[9, 1\]; the target has 2 codebooks: give integers \[steps, 2\]",
        good.repeat(1, 2): r"is torch.int64 \[9, 4\]",
        good[:, 0]: r"is torch.int64 \[9\]",
        good.float(): r"is torch.float32 \[9, 2\]",
        good + torch.tensor([0, 1]): r"has the token 5 \(step 1, codebook 1\), .* give ids in 0 .. 4",
        good - 1: r"has the token -1 \(step 0, codebook 0\)",
    }.items():
        with pytest.raises(ValueError, match=f"the {name} {message}"):
            decode(toy, prompt, 4, noise=NOISE, proposer=make(given))


@pytest.mark.parametrize("law", [GREEDY, Law()], ids=["greedy", "plain"])
def test_a_table_does_not_bet_on_structure_that_it_knows_from_the_prompt(law):
    toy, prompt = Toy((4, 3)), torch.tensor([[[1, 1], [1, 1], [5, 4]] * 3 + [[1, 1]] * 2])
    plain = decode(toy, prompt, 9, law, NOISE)
    found = decode(toy, prompt, 9, law, NOISE, Trigram())
    assert torch.equal(found.codes, plain.codes) and found.trace.drafted[1:].any()


# Layers left out


def test_the_set_of_layers_that_agrees_is_found():
    """A layer that adds nothing is left out in the end, and then all drafts stand."""
    model = small_decoder((9,), layers=5)
    for part in (model.transformer.layers[2].attention.out, model.transformer.layers[2].down):
        part.weight.data.zero_()
    swift = Swift(share=0.2, trials=8, context=16)
    trace = decode(model, random_tokens(model, 2, 4), 60, noise=NOISE, proposer=swift, window=3).trace
    assert [swift._parts[best].depths for best in swift._best.tolist()] == [(0, 1, 3, 4)] * 2
    assert len(swift._parts) == 3 and torch.equal(trace.accepted[12:], trace.drafted[12:])
    alone = decode(model, random_tokens(model, 1, 4), 60, noise=NOISE, proposer=swift, window=3).trace
    assert alone.draft_forwards.sum() == alone.drafted.sum() + 6  # each of 3 sets is tried twice
    for arguments in (dict(share=0.0), dict(trials=0), dict(context=0)):
        with pytest.raises(ValueError, match="expected a share between 0 and 1"):
            Swift(**arguments)


# Bandits


def test_draws_favour_the_arm_that_gives_more_and_go_over_to_another_that_comes_to():
    model = target((9,))
    prompt = random_tokens(model, 1, 4)
    whole = torch.cat((prompt, decode(model, prompt, 200, noise=NOISE).codes), 1)
    halves = [whole.clone(), whole.clone()]
    halves[0][:, 104:] = (halves[0][:, 104:] + 1) % 9  # right first
    halves[1][:, :104] = (halves[1][:, :104] + 1) % 9  # right then

    class Told(Exp3):
        def choose(self, ctx):
            chosen = super().choose(ctx)
            drawn.append((int(ctx.length[0]), int(chosen[0])))
            return chosen

    drawn: list[tuple[int, int]] = []
    bandit = Told([Known(half) for half in halves], rate=3.0)
    decode(model, prompt, 200, Law(), NOISE, bandit, window=3)
    early = [arm for length, arm in drawn if 40 < length <= 104]
    late = [arm for length, arm in drawn if length > 150]
    assert early.count(0) > 0.7 * len(early) and late.count(1) > 0.7 * len(late)
    assert torch.allclose(bandit._chance.sum(1), torch.ones(1))
    with pytest.raises(ValueError, match="a rate of 0.0"):
        Exp3([CopySpec()], rate=0.0)


# Heads that foretell


def collected() -> tuple[list[Verdicts], DraftModel]:
    model, draft = target((9,)), target((9,))
    generator = torch.Generator().manual_seed(9)
    for parameter in draft.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    watched = Watched(draft)
    decode(model, random_tokens(model, 32, 4), 24, noise=NOISE, proposer=watched, window=4)
    return watched.verdicts, draft


def test_a_head_learns_from_what_became_of_drafts_where_they_end(tmp_path):
    verdicts, draft = collected()
    judged, stood = (torch.cat([getattr(each, name).flatten() for each in verdicts]) for name in ("judged", "stood"))
    share = float(stood[judged].float().mean())
    assert 0.2 < share < 0.98 and (judged.sum() < len(judged))
    torch.manual_seed(0)
    head = AcceptanceHead(16, 1, inner=16)
    losses = train_acceptance(head, verdicts, steps=200)
    base = -(share * torch.tensor(share).log() + (1 - share) * torch.tensor(1 - share).log())
    assert sum(losses[-20:]) / 20 < float(base) - 0.03
    features = torch.cat([each.features[each.judged] for each in verdicts]).float()
    assert head(features).sigmoid().mean().item() == pytest.approx(share, abs=0.05)
    model, prompt, lengths = target((9,)), random_tokens(target((9,)), 8, 4, seed=2), []
    for threshold in (0.01, 0.4, 0.99):
        trace = decode(model, prompt, 24, noise=NOISE, proposer=SpecDec(draft, head, threshold), window=6).trace
        lengths.append(float(trace.drafted.double().mean()))
    assert lengths[0] < lengths[1] < lengths[2]
    head.save(tmp_path / "head.safetensors")
    again = AcceptanceHead.load(tmp_path / "head.safetensors")
    assert torch.equal(again(features), head(features))


def test_a_head_saves_draft_passes_and_loses_few_tokens():
    verdicts, draft = collected()
    torch.manual_seed(0)
    head = AcceptanceHead(16, 1, inner=16)
    train_acceptance(head, verdicts, steps=200)
    model = target((9,))
    prompt = random_tokens(model, 16, 4, seed=2)
    traces = [
        decode(model, prompt, 30, noise=NOISE, proposer=proposer, window=6).trace
        for proposer in (DraftModel(draft), SpecDec(draft, head, 0.6))
    ]
    assert traces[1].acceptance.mean() > traces[0].acceptance.mean() + 0.02
    assert traces[1].tokens_per_forward.mean() > 0.75 * traces[0].tokens_per_forward.mean()


def test_what_is_no_head_is_named(tmp_path):
    draft = other((9,))
    with pytest.raises(ValueError, match="a head for states of width 8 and 2 codebooks, a draft model of 16 and 1"):
        SpecDec(draft, AcceptanceHead(8, 2))
    with pytest.raises(ValueError, match="the threshold is 1.0"):
        SpecDec(draft, AcceptanceHead(16, 1), 1.0)
    (tmp_path / "no").write_bytes(b"no head")
    with pytest.raises(ValueError, match="holds no acceptance head"):
        AcceptanceHead.load(tmp_path / "no")
    nothing = Verdicts(torch.zeros(1, 2, 17), torch.zeros(1, 2).bool(), torch.zeros(1, 2).bool())
    with pytest.raises(ValueError, match="1 verdicts, and no step that was judged"):
        train_acceptance(AcceptanceHead(16, 1), [nothing])
