"""What drafts make of the bundled decoders is what they make one step at a time, whatever drafts."""

from __future__ import annotations

import functools

import pytest
import torch

import zoo
from zoo.decoders.sampling.proposers import NAMES
from zoo.generation_drafts import OF_LAYERS

DRAFT = "autoregressive.text-draft"
STARTERS = {
    "autoregressive.text": dict(prompt="def area(self, width, height):\n    return", steps=24),
    "conditioned.shapes": dict(label="star"),
    "conditioned.speech-16khz": dict(text="yes.", label="slt", steps=30),
    "two-stage.speech-16khz-forced": dict(text="yes.", label="slt"),
}
DRAFTING = {
    "autoregressive.text": [  # early exits are for decoders without conditions
        *OF_LAYERS,
        f"draft:{DRAFT}", f"opt-tree:{DRAFT}", f"dyspec:{DRAFT}", f"staged:{DRAFT}+ngram", f"phrases+draft:{DRAFT}",
        f"suffix-automaton+draft:{DRAFT}", "bandit+ngram+copyspec", "exp3+jacobi+ngram",
        "heads:heads.text", "heads:heads.text,width=1", "suffix-automaton:shortest=3+heads:heads.text,width=1",
    ],
}  # fmt: skip


@functools.cache
def plain(name: str, temperature: float):
    return zoo.generate(loaded(name), temperature=temperature, seed=3, **STARTERS[name])


@functools.cache
def loaded(name: str):
    return zoo.load(name)


def shipped():
    for name in STARTERS:
        if name in zoo.list_models():
            for proposer in [*NAMES, *DRAFTING.get(name, ())]:
                yield name, f"{proposer}:3" if proposer == "early-exit" else proposer


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("name", "proposer"), [*shipped()])
def test_drafts_change_no_token_of_a_starter(name, proposer, temperature):
    expected = plain(name, temperature)
    found = zoo.generate(loaded(name), temperature=temperature, seed=3, proposer=proposer, window=4, **STARTERS[name])
    assert found.facts()["exactness"] == "identical"
    if expected.medium == "text":
        assert found.text == expected.text
    else:
        assert torch.equal(found.tokens[0].codes, expected.tokens[0].codes)
