"""Look-ahead changes nothing but how fast tokens come; its tree asks the target about trajectories as they are."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_decode import LAWS, sequentially
from toys import Toy

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import Lookahead
from zoo.decoders.state import State, open_block

ROWS, STEPS, NOISE = 3, 11, Noise(7)


class Chain(TokenModel):
    """The law of a step depends on the one before alone: `next[token]` is by far the most probable."""

    def __init__(self, next: list[int]):
        super().__init__()
        self.next = torch.tensor(next)
        self.eval()

    @property
    def info(self) -> DecoderInfo:
        return DecoderInfo(cards=(len(self.next),), context=100, layers=1, width=1, parameters=0)

    def init_state(self, rows, max_steps, cond=None):
        return State(rows, max_steps, [(1, 1)], torch.zeros(1))

    def run(self, tokens, positions, state, block_mask):
        hidden = tokens.float()
        open_block(state, hidden, block_mask, True).extend(0, hidden[:, None], hidden[:, None])
        logits = 9.0 * torch.nn.functional.one_hot(self.next[tokens], len(self.next))
        return Output(logits, hidden)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_tokens_are_those_of_sequential_sampling(law):
    model = small_decoder(layers=2)
    prompt = random_tokens(model, ROWS, 4)
    expected = torch.stack([sequentially(model, part, STEPS, law, NOISE, row) for row, part in enumerate(prompt)])
    for proposer, window in ((Lookahead(2), 3), (Lookahead(), 9), (Lookahead(4, pool=1), 14)):
        found = decode(model, prompt, STEPS, law, NOISE, proposer, window=window)
        assert torch.equal(found.codes, expected) and found.exactness == "identical"


def test_a_row_is_the_same_alone_and_beside_any_neighbours():
    model = Chain([3, 0, 1, 4, 2, 5])
    prompt, lengths = torch.tensor([[1, 2], [5, 0], [4, 4]])[..., None], torch.tensor([2, 1, 2])
    steps, law = torch.tensor([20, 9, 14]), Law(temperature=0)
    together = decode(model, prompt, steps, law, NOISE, Lookahead(), window=8, lengths=lengths)
    for row in range(ROWS):
        part = prompt[row : row + 1, : lengths[row]]
        alone = decode(model, part, int(steps[row]), law, Noise(NOISE.seed, (row,)), Lookahead(), window=8).trace
        assert torch.equal(alone.emitted[:, 0], together.trace.emitted[: len(alone.emitted), row])


def test_a_text_that_repeats_comes_an_n_gram_at_a_time():
    """Transitions are found beside the text, before it has ever been there."""
    model = Chain([3, 0, 1, 4, 2, 6, 7, 5])
    prompt = torch.tensor([[[1]], [[5]]])
    trace = decode(model, prompt, 60, Law(temperature=0), proposer=Lookahead(4), window=18).trace
    assert (trace.emitted[5:12] >= 4).all()
    assert (trace.tokens_per_forward > 3).all()


def test_the_target_is_asked_about_each_trajectory_as_if_it_stood_behind_the_known_steps():
    toy, seen = Toy((5,)), []

    class Spy(Lookahead):
        def propose(self, ctx, n):
            draft = super().propose(ctx, n)
            self.known, self.asked = ctx.tokens[0, : ctx.length[0]].clone(), self._window.clone()
            return draft

        def observe(self, ctx, outcome):
            if not outcome.finished.any():
                for column in range(self._width):
                    way = torch.cat((self.known, self.asked[0, :column, 0], self.asked[0, column]))
                    fresh = Law()(toy(way[None]).logits[0, -1])
                    slot = 1 + (self.levels - 1) * self._width + column
                    assert torch.allclose(outcome.scores.logp[0, slot], fresh, atol=1e-5)
                    assert outcome.scores.steps[0, slot] == len(way)
                    seen.append(column)
            super().observe(ctx, outcome)
            moved = int(outcome.count[0]) - 1
            for column in range(0 if outcome.finished.any() else max(0, self._width - moved)):
                assert torch.equal(self._window[0, column, :-1], self.asked[0, column + moved, 1:])

    decode(toy, torch.tensor([[[1], [3]]]), 12, noise=NOISE, proposer=Spy(4), window=12)
    assert len(seen) > 10


def test_the_pool_holds_each_n_gram_once_and_gives_the_youngest():
    toy = Toy((3,))
    proposer = Lookahead(3, pool=40)
    decode(toy, torch.ones(2, 1, 1).long(), 20, noise=NOISE, proposer=proposer, window=10)
    pool = proposer._ngrams
    for grams, age in zip(pool._ngrams.flatten(2), pool._age, strict=True):
        kept = grams[age > 0].tolist()
        assert len(kept) > 5 and len({tuple(gram) for gram in kept}) == len(kept)
        assert len(age[age > 0].unique()) == len(kept)


def test_what_does_not_fit_is_named():
    for arguments in ((1,), (3, 0)):
        with pytest.raises(ValueError, match="expected n-grams of 2 steps or more"):
            Lookahead(*arguments)
    prompt = torch.ones(1, 1, 1).long()
    with pytest.raises(ValueError, match="a window of 5 slots; 4-grams need 6"):
        decode(Toy(), prompt, 9, proposer=Lookahead(4))
    with pytest.raises(ValueError, match="trees, but the codes of a step depend on each other"):
        decode(Toy((3, 3), depth=True), torch.ones(1, 1, 2).long(), 9, proposer=Lookahead())
    with pytest.raises(ValueError, match="Lookahead drafts trees, which the rule Rejection does not take"):
        decode(Toy(), prompt, 9, proposer=Lookahead(), rule="rejection")
