"""Two models whose streams are contrasted: what comes out is what the definition gives, whatever is drafted."""

from __future__ import annotations

import math

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Toy, adversary, all_outputs, chi_square, counts, every_kind

from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers import DraftModel
from zoo.decoders.side_by_side import SideBySide

NOISE = Noise(6)


def contrasted(expert, amateur, plausible, weight=1.0):
    """Log-probabilities of the next step `[R, Q, V]`: Li et al. (arXiv 2210.15097), with logarithms of ratios."""
    p, q = expert.log_softmax(-1), (weight * amateur).log_softmax(-1)
    kept = p >= p.amax(-1, keepdim=True) + math.log(plausible)
    return (p - q).masked_fill(~kept | p.isneginf(), -torch.inf).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0], ids=["amateur at 0.5", "amateur at 1"])
def test_every_draft_gives_the_tokens_of_contrasting_step_by_step(temperature):
    expert, amateur = small_decoder(layers=2), small_decoder(layers=1, width=24, seed=3)
    law = Law(streams=(1.0, -1 / temperature), plausible=0.1)
    prompt = whole = random_tokens(expert, 2, 4)
    for step in range(4, 14):
        logp = contrasted(expert(whole).logits[:, -1], amateur(whole).logits[:, -1], 0.1, 1 / temperature)
        next = draw(logp, NOISE.gumbel(torch.full((2, 1), step), *logp.shape[1:])[:, 0])
        whole = torch.cat((whole, next[:, None]), 1)
    pair, both = SideBySide(expert, amateur), torch.cat((prompt, prompt))
    for name, proposer in every_kind(whole, small_decoder(layers=1, seed=5)).items():
        assert torch.equal(decode(pair, both, 10, law, NOISE, proposer).codes, whole[:, 4:]), name


@pytest.mark.parametrize("rule", ["equal", "rejection"])
@pytest.mark.parametrize("depth", [False, True], ids=["parallel", "depth"])
def test_complete_outputs_have_the_law(rule, depth):
    cards, steps, rows = ((3,), 3, 6000) if not depth else ((2, 3), 2, 6000)
    expert, amateur = Toy(cards, depth=depth), Toy(cards, seed=1, depth=depth, strength=0.6)
    outputs, total = all_outputs(cards, steps), 0.0
    prompt = torch.ones(1, 1, len(cards), dtype=torch.int64)
    whole = torch.cat((prompt.expand(len(outputs), -1, -1), outputs), 1)
    for step in range(1, steps + 1):
        logits = []
        for model in (expert, amateur):
            found = model(whole[:, :step])
            codes = whole[:, step][:, None]
            logits.append(model.depth(found.hidden[:, -1:], codes)[:, 0] if depth else found.logits[:, -1])
        total = total + contrasted(*logits, 0.2).double().gather(-1, whole[:, step][..., None]).sum((1, 2))
    draft = None if depth else DraftModel(adversary(expert))
    law = Law(streams=(1.0, -1.0), plausible=0.2)
    found = decode(
        SideBySide(expert, amateur), prompt.expand(2 * rows, -1, -1), steps, law, NOISE, draft, rule, window=2
    )
    assert chi_square(counts(found.codes, cards), total.exp()) > 1e-3
    plain = decode(expert, prompt.expand(rows, -1, -1), steps, noise=NOISE)
    assert chi_square(counts(plain.codes, cards), total.exp()) < 1e-6
