"""Steps that the model drafts for itself change the number of passes, and nothing else."""

from __future__ import annotations

import pytest
import torch
from masked_toys import every_chooser
from small_decoders import random_tokens, small_decoder
from toys import Toy

from zoo.decoders.sampling import Law, Noise, choosers, decode_masked, guidance, masked
from zoo.decoders.sampling.passes import Ahead
from zoo.decoders.transformer import Conditioning

CHOOSERS = every_chooser((4, 3))


@pytest.mark.parametrize("name", CHOOSERS)
def test_tokens_are_those_of_one_pass_a_step(name):
    model = Toy((4, 3), causal=False, strength=3)
    prompt, lengths = random_tokens(model, 4, 9), torch.tensor([9, 5, 9, 7])
    prompt[:2], prompt[2, ::2], prompt[3, 3:, 0] = -1, -1, -1
    for seed, ahead, steps, heat in ((0, 1, 9, 1.0), (1, 2, 18, 0.3), (2, 4, 18, 0.0), (3, 9, (6, 4), 0.3)):
        arguments = (model, prompt, steps, Law(temperature=heat), Noise(seed), "linear", CHOOSERS[name])
        plain = decode_masked(*arguments, lengths=lengths)
        fast = decode_masked(*arguments, lengths=lengths, ahead=ahead)
        assert torch.equal(fast.codes, plain.codes) and torch.allclose(fast.logp, plain.logp, atol=1e-5)
        assert torch.equal(fast.trace.emitted, plain.trace.emitted) and fast.exactness == plain.exactness
        assert fast.trace.target_forwards.sum() <= plain.trace.target_forwards.sum()


@pytest.mark.parametrize("seed", range(3))
def test_a_transformer_with_guidance_gives_the_same_in_fewer_passes(seed):
    model = small_decoder(layers=2, causal=False, specials=1, adaptive=4, conditioning=("class",))
    kinds = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    law, cond = Law(temperature=0.2, streams=guidance(1.5)), Conditioning(vector=kinds)
    plain, fast = (
        decode_masked(model, (3, 8), 16, law, Noise(seed), "linear", cond=cond, ahead=ahead) for ahead in (0, 3)
    )
    assert torch.equal(fast.codes, plain.codes)
    assert fast.trace.target_forwards.sum() < plain.trace.target_forwards.sum() == 16


class Deaf(Toy):
    """Says the same whatever it is asked: all drafts come true."""

    def run(self, tokens, positions, state, block_mask):
        return super().run(torch.zeros_like(tokens), positions, state, block_mask)


def test_drafts_that_come_true_save_all_passes_but_one_in_a_window():
    model = Deaf((3,), causal=False)
    for ahead, passes in ((0, 13), (1, 7), (3, 4), (11, 2), (50, 2)):
        model.calls = 0
        result = decode_masked(model, (2, 13), 13, Law(), Noise(1), "linear", ahead=ahead)
        # The first pass has nothing to draft from; each later one covers a step and the drafts behind it.
        assert model.calls == int(result.trace.target_forwards.sum()) == passes


def test_a_verifier_that_believes_every_draft_would_be_found_out(monkeypatch):
    model, arguments = Toy((3,), causal=False, strength=3), (12, Law(), Noise(0), "linear")
    plain = decode_masked(model, (8, 12), *arguments)

    class Credulous(Ahead):
        believed = 0

        def ask(self, filling, grid, number):
            answer = super().ask(filling, grid, number)
            self.believed = 0 if answer.target else self.believed + 1
            return answer

        def _foreseen(self, tokens, waiting):
            if self._asked is None or self.believed + 1 >= len(self._asked):
                return None
            return torch.full((self.rows,), self.believed + 1)

    assert torch.equal(decode_masked(model, (8, 12), *arguments, ahead=3).codes, plain.codes)
    monkeypatch.setattr(masked, "Ahead", Credulous)
    assert not torch.equal(decode_masked(model, (8, 12), *arguments, ahead=3).codes, plain.codes)


def test_passes_of_judges_in_drafts_are_counted():
    model, judge = Deaf((3,), causal=False), Toy(seed=3, causal=False)
    chooser = choosers.Rescored(choosers.Judge(judge))
    result = decode_masked(model, (1, 6), 6, noise=Noise(0), schedule="linear", chooser=chooser, ahead=2)
    assert int(result.trace.draft_forwards.sum()) == judge.calls > 5


def test_a_negative_number_of_steps_ahead_is_refused():
    with pytest.raises(ValueError, match="-1 steps ahead"):
        decode_masked(Toy(causal=False), (1, 4), ahead=-1)
