"""Jacobi windows give the tokens of sequential sampling, or under coupled rules their law, and fewer passes."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_decode import LAWS, sequentially
from toys import Toy, adversary, fit

from zoo.decoders.base import TokenModel
from zoo.decoders.layouts import Delay, Parallel, Raster
from zoo.decoders.sampling import Draft, Law, Noise, Trace, decode, rules
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers import DraftModel, Jacobi, Proposer
from zoo.decoders.sampling.rules import Coupled, GumbelCoupled, Rejection, Rule, Scores, Streams, Verified

ROWS, STEPS, NOISE = 3, 11, Noise(7)
GRID = Raster((11, 7), begin=True), (4, 4)
GUESSES = {
    "random": lambda: Jacobi(),
    "last": lambda: Jacobi("last"),
    "left": lambda: Jacobi("left", *GRID),
    "above": lambda: Jacobi("above", *GRID),
    "blocks": lambda: Jacobi(block=4),
}
COUPLED = ("rejection", "coupled", "gumbel")
PICTURE = Raster((3,), begin=True), (2, 2)


@pytest.fixture(scope="module")
def model() -> TokenModel:
    return small_decoder(layers=2, specials=3)


@pytest.fixture(scope="module")
def prompt(model) -> torch.Tensor:
    return random_tokens(model, ROWS, 4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_fixed_point_is_what_sequential_sampling_gives(model, prompt, law):
    """Also where tokens are drawn: noise that belongs to a place is the strongest coupling of all iterations."""
    expected = torch.stack([sequentially(model, part, STEPS, law, NOISE, row) for row, part in enumerate(prompt)])
    for name, jacobi in GUESSES.items():
        for window in (1, 6):
            found = decode(model, prompt, STEPS, law, NOISE, jacobi(), window=window)
            assert torch.equal(found.codes, expected), (name, window)
            assert found.exactness == "identical" and not found.trace.draft_forwards.any()


@pytest.mark.parametrize("rule", ["equal", *COUPLED])
def test_a_window_is_the_same_alone_and_beside_any_neighbours(model, prompt, rule):
    lengths, steps = torch.tensor([4, 1, 2]), torch.tensor([5, STEPS, 8])
    together = decode(model, prompt, steps, noise=NOISE, proposer=Jacobi("last"), rule=rule, lengths=lengths)
    for row, (length, count) in enumerate(zip(lengths.tolist(), steps.tolist(), strict=True)):
        part, noise = prompt[row : row + 1, :length], Noise(NOISE.seed, rows=(row,))
        alone = decode(model, part, count, noise=noise, proposer=Jacobi("last"), rule=rule)
        assert torch.equal(alone.codes[0], together.codes[row, :count])


def test_codes_that_depend_on_each_other_have_windows_too():
    toy, prompt = Toy((3, 4), depth=True), torch.tensor([[[1, 2]], [[0, 3]]])
    plain = decode(toy, prompt, 9, noise=NOISE)
    assert torch.equal(decode(toy, prompt, 9, noise=NOISE, proposer=Jacobi()).codes, plain.codes)


@pytest.mark.parametrize("rule", ["equal", *COUPLED])
def test_the_layout_s_tokens_stand_in_windows(rule):
    layout = Delay((5, 4), begin=True)
    model, forced = small_decoder((5, 4), layers=2, specials=layout.specials), layout.forced((6,))
    prompt = forced[:1].expand(2, -1, -1)
    for jacobi in (Jacobi(), Jacobi("last"), Jacobi("left", layout, (6,))) if rule == "equal" else (Jacobi("last"),):
        found = decode(model, prompt, 7, noise=NOISE, proposer=jacobi, rule=rule, forced=forced[None])
        assert (found.codes.where(forced[1:] >= 0, -1) == forced[1:]).all()
        if rule == "equal":
            assert torch.equal(found.codes, decode(model, prompt, 7, noise=NOISE, forced=forced[None]).codes)


class Spy(Jacobi):
    """Remembers what was drafted in each round, and for which step the first slot stands."""

    def start(self, ctx):
        super().start(ctx)
        self.drafts: list[tuple[torch.Tensor, Draft]] = []

    def propose(self, ctx, n):
        draft = super().propose(ctx, n)
        self.drafts.append((ctx.length.clone(), draft))
        return draft


def test_the_first_guess_of_a_code_is_the_one_before_it_on_the_grid():
    layout, shape = Raster((9,), row_end=True, begin=True), (3, 3)
    toy, forced = Toy((9,)), layout.forced(shape)
    toy._info = small_decoder((9,), specials=layout.specials, layers=1).info
    toy.table = torch.randn(41, 1, 16, 8, dtype=torch.float64)
    prompt = layout.pack(torch.tensor([[[[7, 8, 2], [0] * 3, [0] * 3]]]), None)[:, :4]
    for guess, first in {"above": [-1, 7, 8, 2, -1, 7], "left": [-1, None, None, None, -1, None]}.items():
        spy = Spy(guess, layout, shape)
        decode(toy, prompt, 8, proposer=spy, window=6, forced=forced[None])
        tokens = spy.drafts[0][1].tokens[0, :, 0].tolist()
        for slot, (token, wanted) in enumerate(zip(tokens, first, strict=True)):
            if wanted is None:  # the cell at the left, itself a guess; the first of a row has none
                assert slot in (1, 5) or token == tokens[slot - 1]
            elif wanted >= 0:
                assert token == wanted
    spy = Spy("last")
    decode(toy, prompt, 4, proposer=spy, window=3)
    assert spy.drafts[0][1].tokens[0, :, 0].tolist() == [2, 2, 2]


def test_ids_that_only_go_in_are_no_guess(model):
    begin = (torch.tensor(model.info.cards) + 2).expand(2, 1, 2)
    spy = Spy("last")
    decode(model, begin, 6, noise=NOISE, proposer=spy)
    assert (spy.drafts[0][1].tokens < torch.tensor(model.info.cards)).all()


@pytest.mark.parametrize("rule", COUPLED)
def test_drafts_go_with_the_law_that_the_target_had_behind_the_last_window(model, prompt, rule):
    spy = Spy()
    decode(model, prompt[:1], STEPS, noise=NOISE, proposer=spy, rule=rule)
    found = 0
    for (before, old), (after, new) in zip(spy.drafts, spy.drafts[1:], strict=False):
        moved = int(after - before)
        for slot in range(min(int(old.count) + 1 - moved, int(new.count))):
            assert not torch.equal(new.logq[0, slot], spy._any) and torch.isfinite(new.logq[0, slot, 0]).all()
            drawn = new.logq[0, slot].gather(-1, new.tokens[0, slot, :, None])
            assert torch.isfinite(drawn).all()
            found += 1
        for slot in range(max(0, int(old.count) + 1 - moved), int(new.count)):
            assert torch.equal(new.logq[0, slot], spy._any)
    assert found > 3


def calm(share: float) -> Toy:
    """A toy of flat laws, whose steps depend on each other by a share of what they usually do."""
    toy = Toy((11,), strength=1.0)
    mean = toy.table.mean(2, keepdim=True)
    toy.table = mean + share * (toy.table - mean)
    return toy


def trace(toy: Toy, rule: str, window: int, guess: str = "random") -> Trace:
    prompt = torch.ones(32, 1, 1, dtype=torch.int64)
    return decode(toy, prompt, 36, noise=NOISE, proposer=Jacobi(guess), rule=rule, window=window).trace


@pytest.mark.parametrize("rule", ["equal", *COUPLED])
def test_steps_that_do_not_depend_on_each_other_are_known_after_one_look(rule):
    """Any two rounds give a whole window, the token behind it, and one more."""
    emitted = trace(calm(0.0), rule, window=4).emitted
    for row in emitted.T.tolist():
        rounds = [count for count in row if count]
        assert all(first + second >= 6 for first, second in zip(rounds, rounds[1:-1], strict=False))


def test_coupled_windows_give_more_tokens_a_pass_than_redrawn_ones():
    """Where steps depend on each other somewhat, and the window is long."""
    toy = calm(0.4)
    found = {rule: float(trace(toy, rule, window=16).tokens_per_forward.mean()) for rule in ("equal", *COUPLED)}
    assert found["coupled"] > 1.1 * found["rejection"] and found["gumbel"] > found["rejection"] > 3 < found["equal"]


def test_blocks_are_solved_one_after_the_other(model, prompt):
    spy = Spy(block=4)
    decode(model, prompt, STEPS, noise=NOISE, proposer=spy, window=9)
    for length, draft in spy.drafts:
        last = length + draft.count  # the step behind the draft
        assert ((last - 4) // 4 == (length - 4) // 4).all()
        assert (((last - 4) % 4 == 3) | (last >= 4 + STEPS - 1)).all()


@pytest.mark.parametrize("guess", ["random", "last", "above"])
@pytest.mark.parametrize("rule", COUPLED)
def test_windows_keep_the_law_of_complete_outputs(rule, guess):
    jacobi = Jacobi(guess, *PICTURE) if guess == "above" else Jacobi(guess)
    assert fit(rule, jacobi, model=Toy(strength=2.0), rows=10_000).good


@pytest.mark.parametrize("depth", [False, True], ids=["parallel", "depth"])
@pytest.mark.parametrize("rule", COUPLED)
def test_windows_keep_the_joint_law_of_codes(rule, depth):
    toy = Toy((2, 3), depth=depth, strength=2.0)
    found = fit(rule, Jacobi(), model=toy, steps=2, window=2, prompt=torch.tensor([[1, 2]]), rows=10_000)
    assert found.good


@pytest.mark.parametrize("rule", COUPLED)
def test_rules_for_windows_take_other_drafts_too(rule):
    toy = Toy()
    assert fit(rule, DraftModel(adversary(toy)), model=toy, rows=10_000).good


LAWS = [Law(), Law(temperature=0.5), Law(temperature=1.5, top_k=2), Law(top_p=0.8)]
# Every rule for windows under every law; another first guess is another start of the same windows, whatever the law.
PROOFS = [*(("last", law) for law in range(len(LAWS))), ("random", 0)]


@pytest.mark.slow
@pytest.mark.parametrize(("guess", "law"), PROOFS)
@pytest.mark.parametrize("rule", COUPLED)
def test_windows_keep_the_law_of_longer_outputs(rule, guess, law):
    assert fit(rule, Jacobi(guess), LAWS[law], model=Toy(strength=2.0), steps=5, rows=200_000).good


class StaleLaw(Jacobi):
    """Says that a token which was kept was drawn from the law of the round in which it was."""

    def start(self, ctx):
        super().start(ctx)
        self.last: tuple[Draft, torch.Tensor] | None = None

    def propose(self, ctx, n):
        draft = super().propose(ctx, n)
        if self.last is None:
            return draft
        old, count = self.last
        row, index = torch.arange(ctx.rows)[:, None], count[:, None] + torch.arange(draft.slots)
        there = (index < old.count[:, None])[..., None]
        index = index.clamp(max=old.slots - 1)
        kept = there & (old.tokens[row, index] == draft.tokens)
        return Draft(draft.tokens, draft.count, None, torch.where(kept[..., None], old.logq[row, index], draft.logq))

    def observe(self, ctx, outcome):
        super().observe(ctx, outcome)
        self.last = outcome.draft, outcome.count


class NoRedraw(Rejection):
    """Leaves tokens as they are, which are then taken for draws from the newest law."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        new = draw(scores.logp[:, -1:], noise.draw.gumbel(scores.steps[:, -1:], *scores.logp.shape[2:]))
        return super().verify(draft, scores, noise)._replace(redrawn=torch.cat((draft.tokens, new), 1))


class NoResidual(Coupled):
    """Redraws what was not kept from the whole law."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        found = super().verify(draft, scores, noise)
        again = draw(scores.logp, noise.draw.gumbel(scores.steps, *scores.logp.shape[2:]))
        kept = found.redrawn[:, : draft.slots] == draft.tokens
        again[:, : draft.slots] = torch.where(kept, draft.tokens, again[:, : draft.slots])
        return found._replace(redrawn=again)


class RowMinimum(Coupled):
    """Four rows advance together, and keep what they may have accepted beyond."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        found = super().verify(draft, scores, noise)
        n = found.n.view(-1, 4).amin(1).repeat_interleave(4)
        return found._replace(n=n, next=found.redrawn[torch.arange(len(n)), n])


class SharedNoise(GumbelCoupled):
    """Draws residuals from the noise of the drafts."""

    def streams(self, noise: Noise, round: int) -> Streams:
        streams = super().streams(noise, round)
        return streams._replace(draw=streams.draft)


@pytest.mark.parametrize(
    ("rule", "proposer"),
    [
        (Coupled(), StaleLaw()),
        (NoRedraw(), Jacobi()),
        (NoResidual(), Jacobi()),
        (RowMinimum(), StaleLaw()),
        (SharedNoise(), DraftModel(adversary(Toy(strength=2.0)))),
    ],
    ids=["stale law", "no redraw", "no residual", "row minimum", "shared noise"],
)
def test_windows_that_change_the_law_are_found_out(rule: Rule, proposer: Proposer):
    assert fit(rule, proposer, model=Toy(strength=2.0), rows=10_000).p < 1e-6


def test_rows_may_advance_together_if_laws_are_kept_fresh():
    assert fit(RowMinimum(), Jacobi(), model=Toy(strength=2.0), rows=10_000).good


def test_a_coupled_redraw_keeps_as_much_as_the_laws_have_in_common():
    """Every slot of a window, also behind the first rejection: 1 - TV stay, and what comes has the law of p."""
    rows, slots = 20_000, 3
    generator = torch.Generator().manual_seed(0)
    logp, logq = torch.randn(2, 1, slots + 1, 1, 5, generator=generator).log_softmax(-1)
    rule, steps = rules.find("coupled"), torch.arange(slots + 1).expand(rows, -1)
    streams = rule.streams(Noise(1), 0)
    tokens = draw(logq[:, :slots], streams.draft.gumbel(steps[:, :slots], 1, 5))
    draft = Draft(tokens, torch.full((rows,), slots), None, logq[:, :slots].expand(rows, -1, -1, -1))
    found = rule.verify(draft, Scores(logp.expand(rows, -1, -1, -1), steps, torch.zeros(rows, slots + 1, 1)), streams)
    margin = 4 / (4 * rows) ** 0.5
    for slot in range(slots + 1):
        came = torch.bincount(found.redrawn[:, slot, 0], minlength=5) / rows
        assert torch.allclose(came, logp[0, slot, 0].exp(), atol=margin)
        if slot < slots:
            kept = (found.redrawn[:, slot] == tokens[:, slot]).double().mean()
            overlap = torch.minimum(logp, logq).exp()[0, slot, 0]
            by_chance = 0  # a redraw never gives the rejected token: the residual has none of it
            assert kept == pytest.approx(float(overlap.sum()) + by_chance, abs=margin)


def test_windows_with_wrong_arguments_are_named():
    for message, arguments in {
        "no guess 'up'; there are random, last, left, above": ("up",),
        "'above' needs a layout": ("above",),
        r"'above' needs a layout and a shape that has this axis, not \(5,\)": ("above", Parallel((3,)), (5,)),
        "looks at no grid": ("last", Parallel((3,)), (5,)),
        "blocks of 0 steps": ("last", None, None, 0),
    }.items():
        with pytest.raises(ValueError, match=message):
            Jacobi(*arguments)
    with pytest.raises(ValueError, match="2 slots a step, the model 1 codebooks"):
        decode(Toy(), torch.tensor([[[1]]]), 4, proposer=Jacobi("left", *GRID))
