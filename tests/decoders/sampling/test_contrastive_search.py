"""Contrastive search chooses what its definition chooses, found step by step without a cache."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Toy

from zoo.decoders.sampling import Law, contrastive_search
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.transformer import Conditioning

STEPS = 8


def by_definition(model, prompt, candidates, penalty, law, steps=STEPS, run=None):
    """The continuation of one row `[P, 1]`."""
    run, whole = run or model, prompt
    for _ in range(steps):
        p, tokens = law(run(whole[None]).logits[:, -1], whole[None])[0, 0].exp().topk(candidates)
        scores = []
        for chance, token in zip(p[p > 0], tokens, strict=False):
            hidden = run(torch.cat((whole, token.view(1, 1)))[None]).hidden[0]
            likeness = torch.cosine_similarity(hidden[-1], hidden[:-1], dim=-1).max()
            scores.append((1 - penalty) * chance - penalty * likeness)
        whole = torch.cat((whole, tokens[torch.stack(scores).argmax()].view(1, 1)))
    return whole[len(prompt) :]


@pytest.mark.parametrize("law", [Law(), Law(temperature=0.5, top_k=2, processors=(RepetitionPenalty(1.5),))], ids=str)
def test_rows_of_any_length_continue_as_defined(law):
    model = small_decoder((11,), layers=2)
    prompt, lengths = random_tokens(model, 3, 5), torch.tensor([5, 1, 3])
    found = contrastive_search(model, prompt, torch.tensor([STEPS, 3, STEPS]), 4, 0.4, law, lengths=lengths)
    for row, length in enumerate(lengths):
        steps = int(found.lengths[row])
        expected = by_definition(model, prompt[row, :length], 4, 0.4, law, steps)
        assert torch.equal(found.codes[row, :steps], expected)
    assert found.lengths.tolist() == [STEPS, 3, STEPS] and found.exactness == "identical"
    assert (found.trace.emitted <= 1).all() and found.trace.target_forwards.sum() == STEPS
    assert not found.trace.draft_forwards.any()


def test_the_penalty_keeps_from_what_is_alike_and_without_it_search_is_greedy():
    model = small_decoder((11,), layers=2)
    prompt = random_tokens(model, 2, 4)
    greedy = by_definition(model, prompt[0], 1, 0.0, Law())
    for candidates, penalty in ((5, 0.0), (1, 0.9)):
        assert torch.equal(contrastive_search(model, prompt, STEPS, candidates, penalty).codes[0], greedy)
    certain = contrastive_search(model, prompt, STEPS, 5, 0.9, Law(temperature=0))
    assert torch.equal(certain.codes[0], greedy)
    assert not torch.equal(contrastive_search(model, prompt, STEPS, 5, 0.9).codes[0], greedy)
    every = contrastive_search(model, prompt, STEPS, 99, 0.5)  # more candidates than tokens: all
    assert torch.equal(every.codes[1], by_definition(model, prompt[1], 11, 0.5, Law()))


def test_guided_conditions_positions_stops_and_forced_tokens_hold_as_in_decode():
    model = small_decoder((11,), layers=2, cross=4, conditioning=("text",))
    prompt = random_tokens(model, 1, 3)
    texts = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.tensor([[0, 1, 9, 2, 8, 3, 7, 4, 6, 5, 10]])

    def run(whole):
        both = whole.expand(2, -1, -1)
        state = model.init_state(2, 0, Conditioning(texts))
        output = model(both, order[:, : whole.shape[1]].expand(2, -1), state)
        return output._replace(logits=2 * output.logits[:1] - output.logits[1:], hidden=output.hidden[:1])

    arguments = {"cond": Conditioning(texts), "positions": order}
    law = Law(streams=(2.0, -1.0))
    expected = by_definition(model, prompt[0], 3, 0.5, Law(), run=run)
    found = contrastive_search(model, prompt.expand(2, -1, -1), STEPS, 3, 0.5, law, **arguments)
    assert torch.equal(found.codes[0], expected)
    stop = int(expected[4])
    cut = contrastive_search(model, prompt.expand(2, -1, -1), STEPS, 3, 0.5, law, stop=stop, **arguments)
    assert cut.codes[0, -1] == stop and torch.equal(cut.codes[0], expected[: len(cut.codes[0])])
    forced = torch.full((1, 6, 1), -1)
    forced[0, 5] = (expected[2] + 1) % 11
    kept = contrastive_search(model, prompt.expand(2, -1, -1), STEPS, 3, 0.5, law, forced=forced, **arguments)
    assert torch.equal(kept.codes[0, :2], expected[:2]) and kept.codes[0, 2] == forced[0, 5]
    rest = by_definition(model, torch.cat((prompt[0], kept.codes[0, :3])), 3, 0.5, Law(), steps=5, run=run)
    assert torch.equal(kept.codes[0, 3:], rest)


def test_what_cannot_be_searched_is_refused():
    model, prompt = Toy((5,)), torch.ones(1, 1, 1).long()
    for settings in ({"candidates": 0}, {"penalty": -0.1}, {"penalty": 1.1}):
        with pytest.raises(ValueError, match="expected at least 1"):
            contrastive_search(model, prompt, 3, **settings)
    with pytest.raises(ValueError, match="this one has 2"):
        contrastive_search(Toy((5, 5)), torch.ones(1, 1, 2).long(), 3)
    with pytest.raises(ValueError, match="not causal"):
        contrastive_search(Toy((5,), causal=False), prompt, 3)
    with pytest.raises(ValueError, match=r"lengths \[2\]"):
        contrastive_search(model, prompt, 3, lengths=torch.tensor([2]))
