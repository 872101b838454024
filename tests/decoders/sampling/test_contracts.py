"""The contracts have room for what is to come: each test is the smallest double of a kind of method."""

from __future__ import annotations

import math

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import STEPS, Random, Toy, every_kind

from zoo.decoders.autoregressive import PartialDecoder
from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.sampling import Draft, Exactness, Law, Noise, decode, stream
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.processors import PrefixProcessor, PrefixTracker, Processor, RepetitionPenalty
from zoo.decoders.sampling.proposers import DraftModel, Jacobi, NGram, Proposer, Recycling
from zoo.decoders.sampling.rules import Equal, Rule, Verified
from zoo.decoders.state import State, open_block

NOISE = Noise(3)


def seen(block, known, tokens):
    """Which of the known steps, those of the block among them, each slot of it sees: bool `[R, N, span]`."""
    rows, _, span, _ = known.shape
    line = torch.ones(1, span, span, dtype=torch.bool).tril()[:, span - tokens.shape[1] :]
    return (line if block.bias is None else block.bias[:, 0] == 0).expand(rows, -1, -1)


class Walk(TokenModel):
    """Continuous steps: the next is normal around a function of all before. Its `logits` are mean and deviation."""

    checked = False

    def __init__(self, slope: float = 0.5, deviation: float = 0.4):
        super().__init__()
        self.slope, self.deviation = slope, deviation
        self.eval()

    @property
    def info(self) -> DecoderInfo:
        return DecoderInfo(cards=(1,), context=STEPS, layers=1, width=1, parameters=0)

    def init_state(self, rows, max_steps, cond=None):
        return State(rows, max_steps, [(1, 1)], torch.zeros(1))

    def run(self, tokens, positions, state, block_mask):
        block = open_block(state, tokens, block_mask, True)
        keys, _ = block.extend(0, tokens[:, None], tokens[:, None])
        mean = self.slope * (seen(block, keys, tokens).float() @ keys[:, 0]).tanh()
        return Output(torch.stack((mean, torch.full_like(mean, self.deviation)), -1), mean)


class Normal(Law):
    """The law of such steps: what the loop asks of a law, for densities."""

    def start(self, prefix, lengths=None, checked=True):
        state = super().start(prefix, lengths, checked)
        state.block = lambda logits, draft: logits
        state.log_prob = lambda laws, tokens: torch.distributions.Normal(*laws.unbind(-1)).log_prob(tokens)
        return state


def normal(noise: Noise, steps: torch.Tensor, laws: torch.Tensor) -> torch.Tensor:
    unit = noise.uniform(steps, laws.shape[2])
    return (laws[..., 0] + laws[..., 1] * math.sqrt(2) * torch.erfinv(2 * unit - 1)).float()


class ContinuousRejection(Rule):
    """Continuous speculative decoding (arXiv 2411.11925): densities for probabilities, the residual by thinning."""

    exactness = Exactness.DISTRIBUTION

    def verify(self, draft, scores, noise):
        p = torch.distributions.Normal(*scores.logp[:, :-1].unbind(-1))
        q = torch.distributions.Normal(*draft.logq.unbind(-1)) if draft.slots else p
        ratio = p.log_prob(draft.tokens) - q.log_prob(draft.tokens)
        passes = noise.test.uniform(scores.steps[:, :-1], 1).log() < ratio
        n = (passes.all(-1) & draft.present()).long().cumprod(1).sum(1)
        row = torch.arange(len(n))
        p, steps = scores.logp[row, n][:, None], scores.steps[row, n][:, None]
        next, open = normal(noise.draw, steps, p)[:, 0], n < draft.count
        for trial in range(60):  # x from p, kept with probability max(0, 1 - q / p)
            if not draft.slots:
                break
            q = draft.logq[row, n.clamp(max=draft.slots - 1)][:, None]
            x = normal(noise.draw.derive(trial), steps, p)
            rest = 1 - (_log_density(q, x) - _log_density(p, x)).exp()
            keeps = open & (noise.draw.derive(trial, 1).uniform(steps, 1) < rest)[:, 0, 0]
            next, open = torch.where(keeps[:, None], x[:, 0], next), open & ~keeps
        return Verified(n, None, next)


def _log_density(laws, x):
    return torch.distributions.Normal(*laws.unbind(-1)).log_prob(x)


class ContinuousDraft(Proposer):
    def __init__(self, model: Walk):
        self.model = model

    def propose(self, ctx, n):
        row, tokens, laws = torch.arange(ctx.rows)[:, None], [], []
        known = ctx.tokens[row, torch.arange(int(ctx.length.max()))]
        for step in range(n):
            laws.append(self.model(torch.cat((known, *tokens), 1)).logits[:, -1:])
            tokens.append(normal(ctx.noise, ctx.length[:, None] + step, laws[-1]))
        return Draft(torch.cat(tokens, 1), torch.full((ctx.rows,), n), None, torch.cat(laws, 1), forwards=n)


def test_steps_may_be_continuous():
    """Moments of the third step, whose law plain sampling in float64 gives."""
    rows, begin = 20_000, torch.zeros(20_000, 1, 1)
    plain = decode(Walk(), begin, 3, Normal(), NOISE, rule=ContinuousRejection()).codes
    draft = ContinuousDraft(Walk(slope=-0.3, deviation=0.6))
    found = decode(Walk(), begin, 3, Normal(), Noise(4), draft, ContinuousRejection(), window=1)
    assert found.codes.dtype == torch.float32 and 0.2 < found.trace.acceptance.nanmean() < 0.95
    a, b = (codes[..., 0].double() for codes in (plain, found.codes))
    for moment in (a.new_ones(3), torch.tensor([1.0, -1.0, 2.0])):
        for power in (1, 2):
            x, y = ((codes @ moment.double()) ** power for codes in (a, b))
            margin = 4.5 * ((x.var() + y.var()) / rows) ** 0.5
            assert abs(x.mean() - y.mean()) < margin
    assert torch.allclose(a.std(0)[0], torch.tensor(0.4).double(), atol=0.01)


class Novel(Processor):
    """What earlier runs gave is forbidden as a first step: a processor that remembers from run to run."""

    def __init__(self):
        self.found: set[int] = set()

    def start(self, tokens, lengths):
        return self.Watch(_Forbid(self, int(lengths[0])), tokens.clone(), lengths.clone())

    class Watch(PrefixTracker):
        def came(self, tokens, count):
            if not self.processor.told:
                self.processor.novel.found |= set(tokens[count > 0, 0, 0].tolist())
            self.processor.told = True

        def fork(self, rows):
            return type(self)(self.processor, self.tokens[rows], self.lengths[rows])


class _Forbid(PrefixProcessor):
    def __init__(self, novel, begin):
        self.novel, self.begin, self.told = novel, begin, False

    def logits(self, logits, tokens, lengths):
        first = (lengths == self.begin)[:, None, None]
        ids = torch.zeros(logits.shape[-1], dtype=torch.bool)
        ids[list(self.novel.found)] = True
        return logits.masked_fill(first & ids, -math.inf)


@pytest.mark.parametrize(
    "make", [lambda: None, Random, lambda: DraftModel(Toy((5,), seed=3)), lambda: Recycling(3), NGram, Jacobi]
)
def test_a_processor_may_remember_from_run_to_run(make):
    """It is told what came out, and not what drafts and their trees bet on."""
    toy, prompt = Toy((5,)), torch.ones(1, 1, 1).long()
    firsts, law = [], Law(processors=(Novel(),))
    for seed in range(5):
        firsts.append(decode(toy, prompt, 3, law, Noise(seed), make()).codes.flatten().tolist())
    assert sorted(first for first, *_ in firsts) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="no token possible"):
        decode(toy, prompt, 3, law, proposer=make())
    law = Law(processors=(Novel(),))
    assert firsts == [decode(toy, prompt, 3, law, Noise(seed)).codes.flatten().tolist() for seed in range(5)]


class Momentum(PrefixProcessor):
    """Momentum decoding (arXiv 2212.02175): resists tokens by how often the last transition was walked before."""

    def logits(self, logits, tokens, lengths):
        row = torch.arange(len(tokens))
        last = tokens[row, lengths - 1]
        step = torch.arange(tokens.shape[1] - 1)
        walked = ((tokens[:, :-1] == last[:, None]) & (step < lengths[:, None] - 1)[..., None]).mT
        next = tokens[:, 1:].mT.clamp(0, logits.shape[-1] - 1)
        return logits - torch.zeros_like(logits).scatter_add_(2, next, walked.to(logits.dtype))


def test_a_law_may_depend_on_the_history_of_steps():
    model = small_decoder(layers=2)
    prompt, law = random_tokens(model, 2, 6), Law(temperature=0.3, processors=(Momentum(), RepetitionPenalty(1.1)))
    plain = decode(model, prompt, 16, law, NOISE)
    for proposer in (Random(), NGram(), DraftModel(model)):
        assert torch.equal(decode(model, prompt, 16, law, NOISE, proposer).codes, plain.codes)
    assert not torch.equal(decode(model, prompt, 16, Law(temperature=0.3), NOISE).codes, plain.codes)


def test_steps_may_come_in_another_order_than_their_places():
    """Suffix first, then the middle: positions say where each step stands."""
    model = small_decoder(layers=2)
    prompt, order = random_tokens(model, 2, 4), torch.tensor([[0, 1, 8, 9, 2, 3, 4, 5, 6, 7]])
    found = decode(model, prompt, 6, noise=NOISE, positions=order, proposer=Random())
    whole = torch.cat((prompt, found.codes), 1)
    logits = model(whole[:, :-1], order[:, :-1].expand(2, -1)).logits[:, 3:]
    steps = torch.arange(4, 10).expand(2, -1)
    assert torch.equal(draw(Law()(logits), NOISE.gumbel(steps, *logits.shape[2:])), found.codes)
    assert not torch.equal(decode(model, prompt, 6, noise=NOISE).codes, found.codes)


class SelfInfilling(Toy):
    """Self-infilling (arXiv 2311.17972): one token postpones the middle, and the suffix comes; another goes back to it.

    So where a step stands follows from the tokens before it, be they drawn or drafted.
    """

    LEAVES, RETURNS, SUFFIX = 3, 4, 20

    def init_state(self, rows, max_steps, cond=None):
        return State(rows, max_steps, [(1, self.table.shape[-1]), (1, 1)], self.table)  # remembers tokens, too

    def run(self, tokens, positions, state, block_mask):
        block = open_block(state, tokens.double(), block_mask, True)
        known, _ = block.extend(1, tokens[:, None].double(), tokens[:, None].double())
        lines = zip(known[:, 0, :, 0], seen(block, known, tokens), strict=True)
        places = [[self.places(line[slot].tolist())[-1] for slot in slots] for line, slots in lines]
        return super().run(tokens, torch.tensor(places), state, block_mask)

    def places(self, line):
        found, free, here = [], [0, self.SUFFIX], 0
        for token in line:
            found.append(free[here])
            free[here] += 1
            here = {self.LEAVES: 1, self.RETURNS: 0}.get(token, here)
        return found


def test_the_order_of_steps_may_be_decided_while_decoding():
    """Behind the token that leaves the middle and behind the one that returns, by what is drawn in each row."""
    model, plain, prompt = SelfInfilling((5,)), Toy((5,)), torch.tensor([[[1], [3]], [[0], [1]], [[2], [2]]])
    found = decode(model, prompt, 14, noise=NOISE).codes
    whole = torch.cat((prompt, found), 1)
    places = torch.tensor([model.places(row[:, 0].tolist()) for row in whole])
    assert (places.diff() < 0).any(1).all() and len(places.unique(dim=0)) == 3  # each row goes back, on its own way
    logits = plain(whole[:, :-1], places[:, :-1]).logits[:, 1:]
    steps = torch.arange(2, 16).expand(3, -1)
    assert torch.equal(draw(Law()(logits), NOISE.gumbel(steps, *logits.shape[2:])), found)
    drafters = every_kind(whole, SelfInfilling((5,), seed=3)) | {"in line": DraftModel(plain), "windows": Jacobi()}
    for name, proposer in drafters.items():
        assert torch.equal(decode(model, prompt, 14, noise=NOISE, proposer=proposer).codes, found), name
    own = decode(model, prompt, 14, noise=NOISE, proposer=DraftModel(SelfInfilling((5,))))
    assert (own.trace.acceptance == 1).all()


def test_positions_may_have_two_coordinates():
    model = small_decoder(layers=2, axes=2)
    prompt = random_tokens(model, 2, 1)
    raster = torch.stack((torch.arange(9) // 3, torch.arange(9) % 3), -1)[None]
    found = decode(model, prompt, 8, noise=NOISE, positions=raster, proposer=Random())
    plain = decode(model, prompt, 8, noise=NOISE, positions=raster.expand(2, -1, -1))
    assert torch.equal(found.codes, plain.codes)


class Exit(Proposer):
    """Early exit (LayerSkip): the first layers draft on a fork of the target's own state."""

    def __init__(self, whole, depths):
        self.part = PartialDecoder(whole, depths)

    def propose(self, ctx, n):
        state, block, tokens, law = ctx.state.fork(), ctx.last[:, None], [], ctx.law.fork()
        for step in range(n):
            logp = law(self.part(block, state=state).logits)
            state.commit(None, 1)
            block = draw(logp, ctx.noise.gumbel(ctx.length[:, None] + step, *logp.shape[2:]))
            tokens.append(block)
        return Draft(torch.cat(tokens, 1), torch.full((ctx.rows,), n), forwards=n)


class Fallback(Proposer):
    """Two proposers compete: the first one's draft, where it has none the second one's; both are told everything."""

    def __init__(self, first: Proposer, second: Proposer):
        self.both = (first, second)

    def start(self, ctx):
        for proposer in self.both:
            proposer.start(ctx)

    def propose(self, ctx, n):
        draft = self.both[0].propose(ctx, n)
        return draft if (draft.count[ctx.room > 0] > 0).all() else self.both[1].propose(ctx, n)

    def observe(self, ctx, outcome):
        for proposer in self.both:
            proposer.observe(ctx, outcome)


def test_a_part_of_the_target_may_draft_on_its_state_and_proposers_compose():
    model = small_decoder(layers=3)
    prompt = random_tokens(model, 3, 5)
    plain = decode(model, prompt, 20, noise=NOISE)
    draft = DraftModel(small_decoder(layers=1, seed=4))
    for proposer in (Exit(model, (0, 1)), Fallback(NGram(shortest=2), draft), Fallback(draft, NGram())):
        found = decode(model, prompt, 20, noise=NOISE, proposer=proposer, window=4)
        assert torch.equal(found.codes, plain.codes)
    right = decode(model, prompt, 20, noise=NOISE, proposer=Exit(model, (0, 1, 2)), window=4)
    assert (right.trace.acceptance == 1).all()


def test_proposers_get_the_verifier_s_by_products():
    class Spy(Random):
        def observe(self, ctx, outcome):
            rows, slots = outcome.scores.logp.shape[:2]
            assert slots == outcome.draft.slots + 1 and outcome.scores.hidden.shape[:2] == (rows, slots)
            came = outcome.tokens[torch.arange(rows), outcome.count - 1]
            assert torch.equal(came[outcome.count > 0], ctx.last[outcome.count > 0])
            assert torch.equal(ctx.room == 0, outcome.finished)

    model = small_decoder(layers=1)
    decode(model, random_tokens(model, 2, 3), torch.tensor([4, 9]), proposer=Spy())


def test_a_rule_that_gives_nothing_is_stopped():
    class Silent(Equal):
        def verify(self, draft, scores, noise):
            found = super().verify(draft, scores, noise)
            return found._replace(undecided=torch.ones_like(found.n, dtype=torch.bool))

    model = small_decoder(layers=1)
    with pytest.raises(ValueError, match="Silent gave row 0 no step"):
        next(stream(model, random_tokens(model, 2, 3), 4, rule=Silent()))
