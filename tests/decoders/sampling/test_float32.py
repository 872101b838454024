"""Decoders in float32, whose sums depend on how many slots a block has: tokens are still those of step by step."""

from __future__ import annotations

import pytest
import torch
from small_decoders import CARDS, random_tokens, small_decoder
from test_decode import LAWS, proposers
from test_drafts_of_every_kind import EVERY, LENGTHS
from toys import step_by_step

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import DraftModel, Jacobi

STEPS, PROMPT = 14, 5
NOISE = Noise(7)
NEAR = 1e-3  # a hundred times what two orders of a sum differ by here


@pytest.fixture(scope="module")
def model() -> TokenModel:
    return small_decoder(dtype=torch.float32)


@pytest.fixture(scope="module")
def prompt(model) -> torch.Tensor:
    return random_tokens(model, 3, PROMPT)


@torch.no_grad()
def gap(model: TokenModel, whole: torch.Tensor, law: Law) -> float:
    """Between the best token and the next, where they come closest."""
    logp = Law()(model(whole[:, :-1]).logits[:, PROMPT - 1 :])
    steps = torch.arange(PROMPT, whole.shape[1]).expand(len(whole), -1)
    best = (logp if law.certain else logp + NOISE.gumbel(steps, *logp.shape[2:])).topk(2).values
    return float((best[..., 0] - best[..., 1]).min())


@pytest.mark.parametrize("name", ["greedy", "plain"])
def test_every_draft_gives_the_tokens_of_step_by_step(model, prompt, name):
    law = LAWS[name]
    whole = step_by_step(model, prompt, STEPS, law, NOISE)
    assert gap(model, whole, law) > NEAR, "no near ties, or the tokens of two orders of a sum may differ"
    drafts = proposers(model, whole) | {"jacobi": Jacobi()} | {name: make(CARDS) for name, make in EVERY.items()}
    for name, proposer in drafts.items():
        found = decode(model, prompt, STEPS, law, NOISE, proposer, window=8)
        assert torch.equal(found.codes, whole[:, PROMPT:]), name


@pytest.mark.parametrize("name", ["greedy", "plain"])
def test_rows_of_any_length_give_the_tokens_that_they_give_alone(model, prompt, name):
    law, draft = LAWS[name], DraftModel(small_decoder(layers=1, seed=5, dtype=torch.float32))
    together = decode(model, prompt, STEPS, law, NOISE, draft, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        noise = Noise(NOISE.seed, rows=(row,))
        alone = decode(model, prompt[row : row + 1, :length], STEPS, law, noise)
        assert torch.equal(alone.codes[0], together.codes[row])
        assert torch.allclose(alone.logp[0], together.logp[row], atol=1e-5)
