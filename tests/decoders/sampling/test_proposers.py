"""Every proposer leaves the output and the target's state as they are, and bets on what it says that it bets on."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_decode import LAWS
from toys import Known, Random, Toy

from zoo.decoders.heads import HeadsConfig, MultiTokenHeads
from zoo.decoders.sampling import Draft, Law, Noise, decode, guidance
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.sampling.proposers import (
    Bandit,
    DraftModel,
    DySpec,
    EarlyExit,
    Heads,
    Jacobi,
    NGram,
    OptTree,
    Proposer,
    Recycling,
    Staged,
    SuffixAutomaton,
    Swift,
)
from zoo.decoders.sampling.proposers.choice import by_row
from zoo.decoders.transformer import Conditioning

NOISE, GREEDY = Noise(7), Law(temperature=0)
LENGTHS, STEPS = torch.tensor([4, 1, 2]), torch.tensor([14, 3, 9])


def small_heads(sequential: bool, shared: bool = False) -> MultiTokenHeads:
    torch.manual_seed(1)
    config = HeadsConfig.of(small_decoder(layers=2).info, 3, sequential=sequential, shared=shared)
    heads = MultiTokenHeads(config).double().eval()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return heads


def other() -> DraftModel:
    return DraftModel(small_decoder(layers=1, seed=5), confident=0.1)


EVERY = {
    "recycling": Recycling,
    "suffix automaton": lambda: SuffixAutomaton(random_tokens(small_decoder(), 1, 200)[0], Recycling(3), shortest=1),
    "suffix automaton before a model": lambda: SuffixAutomaton(fallback=other(), shortest=1),
    "early exit": lambda: EarlyExit(range(1)),
    "skipped layer": lambda: EarlyExit([1], confident=0.2),
    "medusa": lambda: Heads(small_heads(False)),
    "hydra": lambda: Heads(small_heads(True)),
    "hydra in line": lambda: Heads(small_heads(True), width=1),
    "hydra, with the target's own head": lambda: Heads(small_heads(True, shared=True), width=2),
    "staged": lambda: Staged(small_decoder(layers=1, seed=5), NGram()),
    "confident": other,
    "bandit": lambda: Bandit([NGram(), other(), Recycling(2), EarlyExit(range(1))]),
}


class Watched(Proposer):
    """The target's state is the same before and behind each proposal, in all that it has committed."""

    def __init__(self, inner: Proposer):
        self.inner, self.drafts = inner, []
        self.start, self.observe = inner.start, inner.observe

    def propose(self, ctx, n):
        def committed():
            held = [
                run[:, :, row, :, :end] for row, end in enumerate(ctx.state.length) for run in ctx.state._memory.runs
            ]
            return [ctx.state.length.clone(), ctx.tokens.clone(), *(part.clone() for part in held)]

        before = committed()
        self.drafts.append(self.inner.propose(ctx, n))
        assert self.drafts[-1].slots <= n and self.drafts[-1].count.max() <= n
        assert all(torch.equal(was, now) for was, now in zip(before, committed(), strict=True))
        return self.drafts[-1]


@cache
def plain(law: str) -> torch.Tensor:
    model = small_decoder(layers=2)
    return decode(model, random_tokens(model, 3, 4), STEPS, LAWS[law], NOISE, lengths=LENGTHS).codes


@pytest.mark.parametrize(("law", "window"), [("plain", 1), ("greedy", 7), ("penalty", 4)])
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_rows_that_begin_and_end_apart_get_the_tokens_of_plain_sampling(make, law, window):
    model, proposer = small_decoder(layers=2), Watched(make())
    prompt = random_tokens(model, 3, 4)
    found = decode(model, prompt, STEPS, LAWS[law], NOISE, proposer, lengths=LENGTHS, window=window)
    assert torch.equal(found.codes, plain(law)) and found.exactness == "identical"
    assert any(draft.count.any() for draft in proposer.drafts)


@pytest.mark.parametrize("law", ["plain", "greedy"])
@pytest.mark.parametrize("make", [*EVERY.values(), Jacobi], ids=[*EVERY, "jacobi"])
def test_a_proposer_may_draft_for_other_rows_the_next_time(make, law):
    model, proposer = small_decoder(layers=2), make()
    for rows, length in ((3, 4), (2, 9), (1, 2), (4, 3)):
        prompt = random_tokens(model, rows, length, seed=rows)
        expected = decode(model, prompt, 6, LAWS[law], Noise(7)).codes
        assert torch.equal(decode(model, prompt, 6, LAWS[law], Noise(7), proposer).codes, expected)


@pytest.mark.parametrize("kind", ["recycling", "suffix automaton"])
def test_a_row_s_drafts_are_the_same_alone(kind):
    make = EVERY[kind]
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 3, 4)
    together = decode(model, prompt, STEPS, GREEDY, NOISE, make(), lengths=LENGTHS).trace
    for row in (1, 2):
        part, count = prompt[row : row + 1, : LENGTHS[row]], int(STEPS[row])
        alone = decode(model, part, count, GREEDY, Noise(7, (row,)), make()).trace
        assert torch.equal(alone.drafted[:, 0], together.drafted[: len(alone.drafted), row])
        assert torch.equal(alone.accepted[:, 0], together.accepted[: len(alone.accepted), row])


def test_a_row_may_have_the_draft_of_one_and_its_neighbour_that_of_another():
    chain = Draft(torch.tensor([[[1], [2]], [[3], [4]]]), torch.tensor([2, 1]))
    tree = Draft(torch.full((2, 3, 1), 5), torch.tensor([3, 3]), torch.tensor([[-1, -1, 0]] * 2), forwards=2)
    room = torch.tensor([9, 9])
    found = by_row(torch.tensor([False, True]), chain, tree, room)
    assert found.count.tolist() == [3, 1] and found.forwards == 2
    assert found.tokens[0].flatten().tolist() == [5, 5, 5] and found.tokens[1, :1].flatten().tolist() == [3]
    assert found.parent[0].tolist() == [-1, -1, 0] and found.parent[1, :2].tolist() == [-1, 0]
    assert by_row(torch.tensor([True, True]), chain, tree, torch.tensor([2, 0])).count.tolist() == [1, 0]
    laws = torch.randn(2, 2, 1, 6).log_softmax(-1)
    mixed = by_row(torch.tensor([True, False]), chain, Draft(chain.tokens, chain.count, None, laws), room)
    assert mixed.parent is None and torch.equal(mixed.logq[1], laws[1])
    assert mixed.logq[0, 1, 0].tolist() == [-torch.inf] * 2 + [0] + [-torch.inf] * 3


# Draft models, parts of the target


def broken(cards: tuple[int, ...]) -> Toy:
    """Its logits are NaN."""
    toy = Toy(cards, seed=3)
    toy.heads = torch.full_like(toy.heads, torch.nan)
    return toy


def test_a_draft_model_that_fails_is_named_and_not_taken_for_the_target():
    toy, prompt = Toy((4, 3)), torch.zeros(2, 3, 2).long()
    with pytest.raises(ValueError, match="the draft model of DraftModel is at fault: the model gave NaN logits"):
        decode(toy, prompt, 4, proposer=DraftModel(broken((4, 3))))
    with pytest.raises(ValueError, match="the draft model of OptTree is at fault: the model gave NaN logits"):
        decode(toy, prompt, 4, proposer=OptTree(broken((4, 3))))
    with pytest.raises(ValueError, match="^the model gave NaN logits"):
        decode(broken((4, 3)), prompt, 4, proposer=DraftModel(toy))
    conditioned = DraftModel(small_decoder((4, 3), layers=1), Conditioning(vector=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match="the draft model of DraftModel is at fault: the condition's vector"):
        decode(toy, prompt, 4, proposer=conditioned)


@pytest.mark.parametrize("make", [DraftModel, DySpec, OptTree, lambda model: Staged(model, NGram())])
def test_a_draft_model_that_fails_behind_its_first_pass_is_named_too(make):
    toy, prompt = Toy((4, 3)), torch.zeros(2, 3, 2).long()
    draft = Toy((4, 3), seed=3)
    draft.table[3:] = torch.nan  # it has read the prompt by then
    with pytest.raises(ValueError, match=r"the draft model of \w+ is at fault: the model gave NaN logits"):
        decode(toy, prompt, 6, proposer=make(draft))


def test_what_drafts_for_a_draft_model_is_named():
    toy, draft, prompt = Toy((4, 3)), Toy((4, 3), seed=3), torch.zeros(2, 3, 2).long()
    behind = "^what drafts for the draft model of Staged is at fault: "
    with pytest.raises(ValueError, match=f"{behind}the draft model of DraftModel is at fault: the model gave NaN"):
        decode(toy, prompt, 6, proposer=Staged(draft, DraftModel(broken((4, 3)))))
    with pytest.raises(ValueError, match=f"{behind}Toy exits nowhere early"):
        decode(toy, prompt, 6, proposer=Staged(draft, EarlyExit(range(1))))


def test_drafts_end_where_their_model_is_no_longer_sure():
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 3, 4)
    for law in (GREEDY, Law()):
        lengths = []
        for confident in (0.0, 1e-3, 0.3, 1.0):
            proposer = DraftModel(model, confident=confident)
            trace = decode(model, prompt, 12, law, NOISE, proposer, window=4).trace
            assert (trace.acceptance == 1).all()  # the model itself drafts
            lengths.append(trace.drafted.double().mean())
        assert lengths[0] >= lengths[1] > lengths[2] and (trace.drafted <= 1).all()
        assert (trace.draft_forwards <= 1).all()


def test_a_draft_model_that_was_not_asked_for_long_reads_on_in_what_room_there_is():
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 3, 4)

    class Seldom(DraftModel):
        """Asked every ninth round; until then row 0 alone is helped on, so that its end comes early."""

        rounds, blocks = 0, 0

        def propose(self, ctx, n):
            self.rounds += 1
            if self.rounds % 9 == 0:
                self.blocks += self._unread > self._state.capacity - self._state.length.max()
                return super().propose(ctx, n)
            draft = Known(whole).propose(ctx, n)
            return Draft(draft.tokens, draft.count * torch.tensor([1, 0, 0]))

    whole = torch.cat((prompt, decode(model, prompt, 36, noise=NOISE).codes), 1)
    seldom = Seldom(model)
    found = decode(model, prompt, 36, noise=NOISE, proposer=seldom, window=1)
    assert torch.equal(found.codes, whole[:, 4:])
    assert torch.equal(found.trace.accepted, found.trace.drafted)
    assert seldom.blocks, "a block of all unread steps must have been too long for this test to mean something"


def test_an_exit_behind_the_last_layer_is_the_target_with_guidance_too():
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 4, 3)
    law = Law(streams=guidance(2.0))
    plain = decode(model, prompt, 9, law, NOISE)
    found = decode(model, prompt, 9, law, NOISE, EarlyExit(range(2)), window=3)
    assert torch.equal(found.codes, plain.codes) and (found.trace.acceptance == 1).all()
    assert found.trace.draft_forwards.tolist() == [3, 3, 0]
    by_law = decode(model, prompt, 9, law, NOISE, EarlyExit(range(2)), "rejection", window=3)
    assert (by_law.trace.acceptance == 1).all()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("axes", [1, 2])
def test_drafts_are_read_where_the_target_reads_them(axes, rows):
    """A model that reads elsewhere drafts other steps; here the drafter is the target, and always right."""
    model, line = small_decoder(layers=2, axes=axes), small_decoder(layers=1, seed=5)
    prompt, law = random_tokens(model, 4, 3), Law(streams=guidance(2.0))
    places = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(row)) for row in range(rows)])
    places = places if axes == 1 else torch.stack((places // 4, places % 4), -1)
    plain = decode(model, prompt, 9, law, NOISE, positions=places)
    assert not torch.equal(plain.logp, decode(model, prompt, 9, law, NOISE, positions=places.flip(1)).logp)
    found = decode(model, prompt, 9, law, NOISE, EarlyExit(range(2)), window=3, positions=places)
    assert torch.equal(found.codes, plain.codes) and (found.trace.acceptance == 1).all()
    one = Law()
    alone = decode(model, prompt[:2], 9, one, NOISE, positions=places)
    itself = decode(model, prompt[:2], 9, one, NOISE, DraftModel(model), window=3, positions=places)
    assert torch.equal(itself.codes, alone.codes) and (itself.trace.acceptance == 1).all()
    other = decode(model, prompt[:2], 9, one, NOISE, DraftModel(line), window=3, positions=places)  # reads in line
    assert torch.equal(other.codes, alone.codes)


@pytest.mark.parametrize("axes", [1, 2])
def test_trees_stages_and_sets_of_layers_are_read_there_too(axes):
    model, line = small_decoder(layers=3, axes=axes), small_decoder(layers=1, seed=5)
    for part in (model.transformer.layers[1].attention.out, model.transformer.layers[1].down):
        part.weight.data.zero_()  # so that it can be left out
    places = torch.randperm(24, generator=torch.Generator().manual_seed(3))[None]
    places = places if axes == 1 else torch.stack((places // 5, places % 5), -1)
    prompt = random_tokens(model, 2, 3)
    plain = decode(model, prompt, 18, Law(), NOISE, positions=places)
    swift = Swift(share=0.3, context=8)
    trees = OptTree(model, sharp=1e6), DySpec(model, sharp=1e6)  # so sure that they are chains
    for proposer in (*trees, Staged(model, NGram()), swift):
        found = decode(model, prompt, 18, Law(), NOISE, proposer, window=3, positions=places)
        assert torch.equal(found.codes, plain.codes)
        assert torch.equal(found.trace.accepted, found.trace.drafted) and (found.trace.drafted[:4] == 3).all()
    assert (swift._agrees == 1).all() and (swift._tried == 8).all()
    other = decode(model, prompt, 18, Law(), NOISE, Staged(line, NGram()), positions=places)  # reads in line
    assert torch.equal(other.codes, plain.codes)


def test_what_can_not_exit_early_is_named():
    with pytest.raises(ValueError, match="Toy exits nowhere early; give an AutoregressiveDecoder"):
        decode(Toy(), torch.ones(1, 1, 1).long(), 3, proposer=EarlyExit([0]))
    model = small_decoder(layers=2)
    with pytest.raises(ValueError, match=r"depths \(3,\) are not some of 0 .. 1"):
        decode(model, random_tokens(model, 1, 2), 3, proposer=EarlyExit([3]))


@pytest.mark.parametrize("inner", [Random, NGram, lambda: DySpec(Toy((9,), seed=3, strength=0.5), gain=0.0, near=0.2)])
def test_a_staged_draft_is_the_draft_model_s(inner):
    model, draft = Toy((9,)), Toy((9,), seed=3)
    prompt, law = random_tokens(model, 3, 4), Law(temperature=0.6, processors=(RepetitionPenalty(1.5),))
    plain, staged = Watched(DraftModel(draft)), Watched(Staged(draft, inner()))
    for proposer in (plain, staged):
        decode(model, prompt, STEPS, law, NOISE, proposer, lengths=LENGTHS, window=7)
    assert len(plain.drafts) == len(staged.drafts) > 3
    for theirs, ours in zip(plain.drafts, staged.drafts, strict=True):
        assert torch.equal(ours.count, theirs.count) and torch.equal(
            ours.tokens[ours.present()], theirs.tokens[theirs.present()]
        )


def test_a_staged_draft_takes_fewer_passes():
    model, prompt = small_decoder(layers=2), random_tokens(small_decoder(layers=2), 3, 4)
    whole = torch.cat((prompt, decode(model, prompt, 14, noise=NOISE).codes), 1)
    right = decode(model, prompt, 14, noise=NOISE, proposer=Staged(model, Known(whole)), window=4).trace
    assert (right.acceptance == 1).all()
    assert right.draft_forwards.tolist() == [2, 2, 2]  # all new steps, then the whole draft at once


def test_a_staged_draft_model_reads_what_is_known_once():
    model, draft, blocks = small_decoder(layers=2), small_decoder(layers=1, seed=5), []
    draft.register_forward_pre_hook(lambda _, inputs: blocks.append(inputs[0].shape[1]))
    decode(model, random_tokens(model, 1, 40), 14, noise=NOISE, proposer=Staged(draft, Random()), window=4)
    assert blocks[0] == 40 and len(blocks) > 5
    assert max(blocks[1:]) <= 5  # what a round gives, or a draft of its own and the step before it


def test_a_bandit_comes_to_choose_what_is_right_in_each_row():
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 2, 4)
    whole = torch.cat((prompt, decode(model, prompt, 40, noise=NOISE).codes), 1)
    halves = []
    for row in range(2):  # each is right in one row
        halves.append(whole.clone())
        halves[-1][row] = (halves[-1][row] + 1) % 7
    bandit = Bandit([Known(half) for half in halves], bold=0.1)
    trace = decode(model, prompt, 40, noise=NOISE, proposer=bandit, window=3).trace
    assert trace.emitted.sum(1).tolist()[:2] == [5, 5] and (trace.emitted[2:9] == 4).all()
    assert bandit._rounds.int().tolist() == [[1, 10], [10, 1]]
    for arms, bold in (([], 1.0), ([NGram()], -1.0)):
        with pytest.raises(ValueError, match="expected one or more"):
            Bandit(arms, bold)
