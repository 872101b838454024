"""Parts of a law that remember: what they mean, and that drafts change nothing of what they remember."""

from __future__ import annotations

import math

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import SampledTree, Toy, adversary, chi_square, counts, every_kind, fit, joint_law, step_by_step

from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.processors import Mirostat, NoRepeat, RepetitionAware, RepetitionPenalty
from zoo.decoders.sampling.proposers import DraftModel, Jacobi

LAWS = {
    "mirostat": Law(processors=(Mirostat(1.2, 0.4),)),
    "mirostat, cut before": Law(temperature=0.8, top_p=0.9, processors=(Mirostat(2.0, 0.7),)),
    "repetition-aware": Law(top_p=0.3, processors=(RepetitionAware(0.1, 6),)),
    "no repeat": Law(processors=(NoRepeat(2),)),
    "all": Law(top_k=6, processors=(NoRepeat(3), RepetitionAware(0.2, 5), Mirostat(1.5, 0.3))),
}


def softmax(logits: torch.Tensor) -> list[float]:
    return logits.double().softmax(-1).tolist()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_draft_gives_the_tokens_of_going_step_by_step(law):
    model, noise = small_decoder(layers=2), Noise(5)
    prompt = random_tokens(model, 3, 4)
    expected = step_by_step(model, prompt, 14, law, noise)
    assert not torch.equal(expected, step_by_step(model, prompt, 14, Law(), noise))
    for name, proposer in every_kind(expected, small_decoder(layers=1, seed=5)).items():
        found = decode(model, prompt, 14, law, noise, proposer, window=4)
        assert torch.equal(found.codes, expected[:, 4:]), name


CHANGES = {
    "mirostat": Law(processors=(Mirostat(1.2, 0.8),)),
    "repetition-aware": Law(top_p=0.6, processors=(RepetitionAware(0.3, 3),)),
    "no repeat": Law(processors=(NoRepeat(2),)),
    "penalty": Law(processors=(RepetitionPenalty(1.5),)),
}
DRAFTS = {  # rules and proposers, of a model that finds probable what the target does not
    "equal": ("equal", DraftModel),
    "rejection": ("rejection", DraftModel),
    "block": ("block", DraftModel),
    "recursive": ("recursive", SampledTree),
    "jacobi": ("equal", lambda other: Jacobi()),
    "speculative jacobi": ("rejection", lambda other: Jacobi()),
    "coupled jacobi": ("coupled", lambda other: Jacobi()),
    "gumbel jacobi": ("gumbel", lambda other: Jacobi()),
}


@pytest.mark.parametrize("law", CHANGES.values(), ids=CHANGES)
def test_processors_change_the_law_of_complete_outputs(law):
    toy, prompt = Toy(), torch.tensor([[1]])
    plain = decode(toy, prompt.expand(8000, -1, -1), 4, Law(), Noise(4)).codes
    assert chi_square(counts(plain, (3,)), joint_law(toy, prompt, 4, law)) < 1e-6


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("law", CHANGES.values(), ids=CHANGES)
def test_complete_outputs_have_the_law_that_going_step_by_step_has(law, kind):
    rule, proposer = DRAFTS[kind]
    assert fit(rule, proposer(adversary(Toy())), law, window=6, rows=8000).good


def test_mirostat_moves_its_bound_by_the_surprise_of_what_came():
    """As in the paper, for one row of one code."""
    target, rate, generator = 1.5, 0.3, torch.Generator().manual_seed(0)
    state = Law(temperature=0.7, processors=(Mirostat(target, rate),)).start(torch.zeros(1, 1, 1, dtype=torch.int64))
    bound, cut = 2 * target, set()
    for _ in range(12):
        logits = 2 * torch.randn(8, generator=generator)
        p = softmax(logits / 0.7)
        kept = {token for token in range(8) if -math.log2(p[token]) <= bound} | {max(range(8), key=lambda x: p[x])}
        total = sum(p[token] for token in kept)
        expected = [p[token] / total if token in kept else 0.0 for token in range(8)]
        law = state(logits[None, None, None])[0, 0, 0].exp()
        assert law.tolist() == pytest.approx(expected, abs=1e-5)
        token = int(torch.multinomial(law, 1, generator=generator))
        bound -= rate * (-math.log2(p[token]) - target)
        state.advance(torch.tensor([[token]]), torch.tensor([True]))
        cut.add(len(kept))
    assert len(cut) > 3, "the bound must move for this test to mean something"


@pytest.mark.parametrize("target", [1.5, 2.0])
def test_mirostat_comes_to_the_perplexity_that_was_asked_for(target):
    """The model's own is 2.6 bits for each token."""
    toy = Toy((40,), strength=3.0)
    law = Law(processors=(Mirostat(target, 0.2),))
    found = decode(toy, torch.ones(64, 1, 1).long(), 36, law, Noise(2))
    whole = torch.cat((torch.ones(64, 1, 1).long(), found.codes), 1)
    logp = toy(whole[:, :-1]).logits.log_softmax(-1).gather(-1, whole[:, 1:, :, None])
    late = -(logp[:, 10:] / math.log(2)).mean()
    assert late == pytest.approx(target, abs=0.15)


def test_mirostat_is_not_moved_by_tokens_that_the_law_had_forbidden_or_does_not_know():
    state = Law(processors=(Mirostat(1.0, 0.5),)).start(torch.zeros(3, 1, 1, dtype=torch.int64))
    logits = torch.tensor([0.0, -1.0, -2.0, -math.inf]).expand(3, 1, 1, 4)
    first = state(logits)
    state.advance(torch.tensor([[3], [5], [0]]), torch.ones(3, dtype=torch.bool))
    later = state(logits)
    assert torch.equal(later[:2], first[:2])
    # The third row's token came with 0.59 bits, and the bound takes over half of what is missing to 1.
    assert state.trackers[0].bound[:, 0].tolist() == pytest.approx(
        [2.0, 2.0, 2.0 - 0.5 * (-math.log2(0.66524) - 1)], abs=1e-4
    )


def test_repetition_aware_sampling_is_the_law_of_drawing_twice():
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0])
    prefix = torch.tensor([4, 0, 1, 0, 2, 0, 1, 0])[None, :, None]
    law = Law(top_p=0.7, processors=(RepetitionAware(0.3, 5),))
    generator = torch.Generator().manual_seed(1)
    nucleus, full = Law(top_p=0.7)(logits).exp(), logits.softmax(-1)
    first = torch.multinomial(nucleus, 200_000, True, generator=generator)
    second = torch.multinomial(full, 200_000, True, generator=generator)
    last = prefix[0, -5:, 0]
    ratio = torch.stack([(last == token).double().mean() for token in range(5)])
    assert ratio.tolist() == pytest.approx([0.6, 0.2, 0.2, 0, 0])
    drawn = torch.where(ratio[first] > 0.3, second, first)
    assert chi_square(torch.bincount(drawn, minlength=5), law(logits[None, None], prefix)[0, 0].exp().double()) > 1e-3
    assert chi_square(torch.bincount(first, minlength=5), law(logits[None, None], prefix)[0, 0].exp().double()) < 1e-6


def test_a_token_as_frequent_as_the_threshold_is_not_drawn_again():
    logits, prefix = torch.tensor([[[2.0, 0.0, -1.0, 1.0]]]), torch.tensor([[[0], [1], [2], [0], [1]]])
    plain = Law(top_k=2)(logits)
    for threshold, same in ((0.4, True), (0.39, False)):
        found = Law(top_k=2, processors=(RepetitionAware(threshold, 5),))(logits, prefix)
        assert torch.allclose(found, plain) == same
    certain = Law(temperature=0, processors=(RepetitionAware(0.0, 5),))
    assert torch.equal(certain(logits, prefix), Law(temperature=0)(logits))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_runs_never_come_twice_and_nothing_else_is_forbidden(length):
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(2, (5, 9, 2), generator=generator)
    tokens[0, 2, 0], lengths = 6, torch.tensor([9, 7, 2, 1, 0])  # an id that can't come out
    found = NoRepeat(length).logits(torch.zeros(5, 2, 4), tokens, lengths)
    for row in range(5):
        for book in range(2):
            line = tokens[row, : lengths[row], book].tolist()
            runs = {tuple(line[at : at + length]) for at in range(len(line) - length + 1)}
            end = tuple(line[len(line) - length + 1 :])
            long_enough = len(line) >= length - 1
            forbidden = [long_enough and (*end, token) in runs for token in range(4)]
            assert found[row, book].isneginf().tolist() == forbidden
    assert found.isneginf().any()


def test_a_law_that_leaves_no_token_says_so():
    toy, law = Toy(), Law(processors=(NoRepeat(1),))
    with pytest.raises(ValueError, match=r"no token possible.*processors that forbid every token"):
        decode(toy, torch.zeros(2, 1, 1).long(), 4, law)


def test_a_row_that_has_ended_needs_no_token_to_be_possible():
    """The first row ends with 1, behind which it has had all three tokens; the second goes on."""
    prompt = torch.tensor([[1, 1, 0, 1, 2], [0, 0, 0, 0, 0]])[..., None]
    forced = torch.full((1, 6, 1), -1)
    forced[0, 5] = 1
    law = Law(processors=(NoRepeat(2),))
    found = decode(Toy(), prompt, torch.tensor([1, 3]), law, lengths=torch.tensor([5, 1]), forced=forced)
    assert found.lengths.tolist() == [1, 3]


@pytest.mark.parametrize(
    "setting",
    [
        lambda: Mirostat(0.0), lambda: Mirostat(math.inf), lambda: Mirostat(3, 0), lambda: Mirostat(3, 2),
        lambda: RepetitionAware(1.0), lambda: RepetitionAware(-0.1), lambda: RepetitionAware(0.1, 0),
        lambda: NoRepeat(0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match="expected"):
        setting()
