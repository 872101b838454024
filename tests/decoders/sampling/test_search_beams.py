"""Beam searches find what enumeration and `transformers` find, and each row of a batch what it finds alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from published_models import MAPPED, published
from small_decoders import random_tokens, small_decoder
from toys import Toy, all_outputs, joint_law

from zoo.decoders.huggingface import HuggingFaceDecoder
from zoo.decoders.sampling import Law, decode
from zoo.decoders.sampling.processors import Grammar, NoRepeat, RepetitionPenalty
from zoo.decoders.sampling.search import beam_search, constrained_beam_search, diverse_beam_search

PROMPT = torch.tensor([[[1]], [[2]]])


def ended_sequences(model, prompt, steps, stop, law):
    """Each sequence that ends, with a stop or the last step, and its log-probability: found by enumeration."""
    found = {}
    for outputs, logp in zip(
        all_outputs(model.info.cards, steps), joint_law(model, prompt, steps, law).log(), strict=True
    ):
        first = outputs[:, 0].tolist()
        length = first.index(stop) + 1 if stop in first else steps
        key = tuple(map(tuple, outputs[:length].tolist()))
        found.setdefault(key, []).append(logp)
    return {key: float(torch.stack(logs).logsumexp(0)) for key, logs in found.items()}


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize(
    "law", [Law(), Law(temperature=0.6, processors=(RepetitionPenalty(1.4),))], ids=["plain", "law"]
)
def test_a_width_of_all_sequences_finds_the_best_in_order(law, penalty):
    model, stop = Toy((3,)), 0
    found = beam_search(model, PROMPT, 4, 81, law, length_penalty=penalty, stop=stop)
    for row, prompt in enumerate(PROMPT):
        logs = ended_sequences(model, prompt, 4, stop, law)
        expected = sorted((logp / len(key) ** penalty for key, logp in logs.items()), reverse=True)
        scores = found.scores[row]
        torch.testing.assert_close(scores[: len(expected)], torch.tensor(expected, dtype=torch.float64))
        assert scores[len(expected) :].isneginf().all()
        best = max(logs, key=lambda key: logs[key] / len(key) ** penalty)
        assert tuple(map(tuple, found.codes[row, : found.lengths[row]].tolist())) == best
        for (codes, logp), score in zip(found.candidates.each(row)[: len(expected)], scores, strict=False):
            key = tuple(map(tuple, codes.tolist()))
            assert float(logp.sum()) == pytest.approx(logs[key], abs=1e-4)
            assert float(score) == pytest.approx(logs[key] / len(key) ** penalty, abs=1e-4)
    assert found.exactness == "approximate"


def test_codes_of_a_step_are_searched_jointly():
    model, prompt = Toy((2, 3)), torch.tensor([[[1, 2]]])
    found = beam_search(model, prompt, 2, 36, length_penalty=0.0)
    law = joint_law(model, prompt[0], 2, Law())
    torch.testing.assert_close(found.scores[0], law.log().sort(descending=True).values, atol=1e-5, rtol=0)
    assert torch.equal(found.codes[0], all_outputs((2, 3), 2)[law.argmax()])
    narrow = beam_search(model, prompt, 6, 3)  # narrower than a step, and a codebook smaller than the other
    assert (narrow.codes[..., 0] < 2).all() and torch.isfinite(narrow.scores).all()


def test_width_one_is_greedy():
    model, stop = small_decoder((11,)), 3
    prompt = random_tokens(model, 4, 5)
    greedy = decode(model, prompt, 9, Law(temperature=0), stop=stop)
    found = beam_search(model, prompt, 9, 1, patience=1, stop=stop)
    assert torch.equal(found.codes, greedy.codes) and torch.equal(found.lengths, greedy.lengths)
    assert torch.equal(beam_search(model, prompt, 9, 1).codes, decode(model, prompt, 9, Law(temperature=0)).codes)


@pytest.mark.parametrize("penalty", [0.0, 0.8, 1.7, -0.5])
@pytest.mark.parametrize(("patience", "early"), [(1, True), (None, "never")])
@pytest.mark.parametrize("stops", [(), (5, 9, 14, 20)])
def test_tokens_and_scores_are_those_of_generate(penalty, patience, early, stops):
    model = HuggingFaceDecoder(published(MAPPED["llama"]))
    rows, begin, steps, width, pad = 3, 4, 10, 4, 36
    prompt = torch.randint(36, (rows, begin), generator=torch.Generator().manual_seed(2))
    theirs = model.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), num_beams=width, num_return_sequences=width,
        max_new_tokens=steps, do_sample=False, pad_token_id=pad, eos_token_id=list(stops) or None,
        length_penalty=penalty, early_stopping=early, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    ours = beam_search(
        model, prompt[..., None], steps, width, length_penalty=penalty, patience=patience, stop=stops
    )  # fmt: skip
    sequences = theirs.sequences[:, begin:].unflatten(0, (rows, width))
    for row in range(rows):
        for (codes, _), expected in zip(ours.candidates.each(row), sequences[row], strict=True):
            assert torch.equal(codes[:, 0], expected[: len(codes)]) and (expected[len(codes) :] == pad).all()
    torch.testing.assert_close(ours.scores.float().flatten(), theirs.sequences_scores, rtol=1e-4, atol=1e-4)
    assert len(ours.candidates.lengths.unique()) > 1 or not stops or penalty > 1  # some ended early


def test_patience_looks_for_more_that_end():
    model, prompt = Toy((4,)), PROMPT[:1]
    found = [beam_search(model, prompt, 30, 3, patience=p, stop=0, length_penalty=0.0) for p in (1 / 3, 1, 4)]
    rounds = [len(result.trace.seconds) for result in found]
    assert rounds[0] < rounds[1] < rounds[2]
    assert found[0].scores[0, 0] <= found[1].scores[0, 0] <= found[2].scores[0, 0]
    assert torch.isfinite(found[0].scores[0]).sum() < 3  # it stopped at the first
    exact = beam_search(model, prompt, 30, 3, stop=0, length_penalty=0.0)
    assert (exact.scores >= found[2].scores - 1e-9).all()


def searches(model):
    """All beam searches, as functions of what `decode` takes."""
    phrases = [[2, 7], [4]]
    return {
        "beam": lambda prompt, steps, **options: beam_search(model, prompt, steps, 3, **options),
        "diverse": lambda prompt, steps, **options: diverse_beam_search(model, prompt, steps, 4, 2, 2.0, **options),
        "phrases": lambda prompt, steps, **options: constrained_beam_search(
            model, prompt, steps, phrases, 3, **options
        ),
    }


@pytest.mark.parametrize("name", ["beam", "diverse", "phrases"])
def test_rows_do_not_depend_on_the_batch(name):
    model = small_decoder((11,))
    search = searches(model)[name]
    prompt, lengths, steps = random_tokens(model, 3, 6), torch.tensor([6, 1, 4]), torch.tensor([9, 5, 7])
    law = Law(processors=(NoRepeat(3),))
    whole = search(prompt, steps, law=law, lengths=lengths, stop=1)
    for row, length in enumerate(lengths):
        alone = search(prompt[row : row + 1, :length], int(steps[row]), law=law, stop=1)
        torch.testing.assert_close(whole.scores[row : row + 1], alone.scores)
        ours, theirs = whole.candidates.each(row), alone.candidates.each(0)
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
        assert int(whole.lengths[row]) == len(theirs[0][0]) == int(whole.trace.emitted[:, row].sum())


@pytest.mark.parametrize("name", ["beam", "diverse"])
def test_guidance_forced_tokens_and_positions_hold(name):
    model = small_decoder((11,), specials=2)
    prompt = random_tokens(model, 2, 3).repeat(2, 1, 1)
    prompt[2:, 0] = 5  # the second stream knows other things
    law = Law(streams=(1.5, -0.5))
    forced = torch.full((1, 7, 1), -1)
    forced[0, 4] = 12  # an input-only id
    order = torch.tensor([[0, 1, 2, 8, 7, 6, 5, 4, 3]])
    found = searches(model)[name](prompt, 6, law=law, forced=forced, positions=order)
    assert (found.codes[:, 1] == 12).all() and (found.logp[:, 1] == 0).all()
    for row in range(2):
        for codes, logp in found.candidates.each(row):
            both = torch.cat((prompt[row::2], codes.expand(2, -1, -1)), 1)
            logits = model(both, order[:, : both.shape[1]].expand(2, -1)).logits[:, 2:-1]
            expected = law.start(prompt[:1])(law.start(prompt[:1]).combine(logits))
            expected = expected.gather(-1, codes[None, ..., None].clamp(max=10))[0, ..., 0]
            expected[1] = 0
            torch.testing.assert_close(logp, expected.float(), rtol=1e-4, atol=1e-5)


def textbook_diverse(model, prompt, steps, groups, size, diversity):
    """The paths of each group, `[groups][size]`, and their log-probabilities: without a cache, one path at a time."""
    beams = [[((), 0.0)] for _ in range(groups)]
    for _ in range(steps):
        chosen = []
        for group, beam in enumerate(beams):
            options = []
            for codes, logp in beam:
                whole = torch.cat((prompt, torch.tensor(codes, dtype=torch.int64).view(-1, 1)))
                law = model(whole[None]).logits[0, -1, 0].log_softmax(-1)
                options += [
                    (
                        logp + float(law[token]) - diversity * chosen.count(token),
                        (*codes, token),
                        logp + float(law[token]),
                    )
                    for token in range(len(law))
                ]
            beams[group] = [(codes, logp) for _, codes, logp in sorted(options, reverse=True)[:size]]
            chosen += [codes[-1] for codes, _ in beams[group]]
    return beams


def test_groups_choose_as_defined():
    model, prompt = Toy((5,)), PROMPT[:1]
    for diversity in (0.0, 0.8, 50.0):
        found = diverse_beam_search(model, prompt, 5, 6, 3, diversity, length_penalty=0.0)
        beams = textbook_diverse(model, prompt[0], 5, 3, 2, diversity)
        expected = sorted((path for beam in beams for path in beam), key=lambda path: -path[1])
        assert [tuple(codes[:, 0].tolist()) for codes, _ in found.candidates.each(0)] == [
            codes for codes, _ in expected
        ]
        logps = torch.tensor([logp for _, logp in expected], dtype=torch.float64)
        torch.testing.assert_close(found.scores[0], logps, atol=1e-5, rtol=0)
    last = {int(codes[-1]) for beam in beams for codes, _ in beam}
    assert len(last) > 2  # what is far apart ends apart, too


def test_one_group_is_beam_search():
    model = Toy((5,))
    found, beam = diverse_beam_search(model, PROMPT, 8, 4, 1, 9.0, stop=0), beam_search(model, PROMPT, 8, 4, stop=0)
    assert torch.equal(found.candidates.codes, beam.candidates.codes) and torch.equal(found.scores, beam.scores)


def holds(codes, phrase):
    line = codes[:, 0].tolist()
    return any(line[place : place + len(phrase)] == phrase for place in range(len(line)))


@pytest.mark.parametrize("phrases", [[[2, 2, 1]], [[0, 1, 0, 2], [1, 0]], [[1, 1, 0], [1, 1, 1]], [[3], [3, 3], [0]]])
@pytest.mark.parametrize("width", [1, 3])
def test_phrases_stand_however_narrow_the_search_and_short_the_room(phrases, width):
    model, stop = Toy((5,), strength=3.0), 4
    least = sum(map(len, phrases))
    for steps in (least, torch.tensor([least + 1, 9])):
        found = constrained_beam_search(model, PROMPT, steps, phrases, width, stop=stop)
        for row in range(2):
            for codes, logp in found.candidates.each(row):
                assert not len(codes) or all(holds(codes, phrase) for phrase in phrases)
                assert (codes[:-1] != stop).all() and torch.isfinite(logp).all()
            assert torch.isfinite(found.scores[row, 0])


def test_a_wide_search_finds_the_best_of_all_that_have_the_phrases():
    model, phrases = Toy((3,)), [[2, 1, 2], [1, 2]]
    found = constrained_beam_search(model, PROMPT, 5, phrases, 243, length_penalty=0.0)
    for row, prompt in enumerate(PROMPT):
        law, outputs = joint_law(model, prompt, 5, Law()), all_outputs((3,), 5)
        right = torch.tensor([all(holds(codes, phrase) for phrase in phrases) for codes in outputs])
        assert torch.equal(found.codes[row], outputs[law.where(right, 0).argmax()])
        torch.testing.assert_close(float(found.scores[row].exp().sum()), float(law[right].sum()), rtol=1e-4, atol=0)


def test_no_phrases_is_beam_search():
    found, beam = (
        constrained_beam_search(Toy((5,)), PROMPT, 8, [], 4, stop=0),
        beam_search(Toy((5,)), PROMPT, 8, 4, stop=0),
    )
    assert torch.equal(found.codes, beam.codes)
    torch.testing.assert_close(found.scores, beam.scores)


PIECES, END = [b"a", b"b", b"ab", b"ba", b"c", b"", b"bc"], 7
DEAD = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))  # no token has the byte d: behind a nothing follows
FIRSTS = torch.arange(9).view(9, 1, 1)


def found_in(candidates, row):
    return {tuple(codes[:, 0].tolist()) for codes, _ in candidates.each(row) if len(codes)}


@pytest.mark.parametrize(
    ("search", "sentences"),
    [
        (lambda *args, **options: beam_search(*args, 9, **options), {(3, END), (1, 0, END)}),
        (lambda *args, **options: diverse_beam_search(*args, 9, 9, 30.0, **options), {(3, END), (1, 0, END)}),
        (lambda *args, **options: constrained_beam_search(*args, [[0]], 9, **options), {(1, 0, END)}),
    ],
    ids=["beam", "diverse", "phrases"],
)
def test_paths_that_cannot_go_on_are_dropped(search, sentences):
    found = search(Toy((9,)), FIRSTS, 5, law=DEAD, stop=END)
    for row, prompt in enumerate(FIRSTS):
        assert found_in(found.candidates, row) == sentences
        assert torch.equal(torch.isfinite(found.scores[row]), found.candidates.lengths[row] > 0)
        alone = search(Toy((9,)), prompt[None], 5, law=DEAD, stop=END)
        torch.testing.assert_close(found.scores[row], alone.scores[0])


def test_a_row_of_which_no_path_can_go_on_says_why():
    with pytest.raises(ValueError, match="the regex grammar 'ad' can't be satisfied"):
        beam_search(Toy((9,)), FIRSTS, 5, 9, Law(processors=(Grammar("ad", "regex", PIECES, END),)), stop=END)
    ends = []
    for prompt in FIRSTS:  # the one path of a narrow search is the greedy one, wherever it leads
        outcomes = []
        for search in (decode, beam_search):
            law = replace(DEAD, temperature=0.0) if search is decode else DEAD
            options = {} if search is decode else {"width": 1, "patience": 1}
            try:
                outcomes.append(search(Toy((9,)), prompt[None], 5, law=law, stop=END, **options).codes.tolist())
            except ValueError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        ends.append(type(outcomes[0]))
    assert {*ends} == {list, str}


def test_what_ended_before_is_kept_where_the_others_die():
    """Behind a the sentence may end, or go on by b, behind which nothing follows."""
    law = Law(processors=(Grammar("a|abd", "regex", PIECES, END),))
    found = beam_search(Toy((9,)), FIRSTS, 5, 4, law, stop=END)
    assert all(found_in(found.candidates, row) == {(0, END)} for row in range(9))


def test_what_cannot_be_searched_is_refused():
    model, prompt = Toy((5,)), PROMPT
    with pytest.raises(ValueError, match="depend on each other"):
        beam_search(Toy((5, 5), depth=True), torch.ones(1, 1, 2).long(), 3)
    with pytest.raises(ValueError, match="0 paths a row"):
        beam_search(model, prompt, 3, 0)
    with pytest.raises(ValueError, match="patience is 0"):
        beam_search(model, prompt, 3, patience=0)
    with pytest.raises(ValueError, match="not causal"):
        beam_search(Toy((5,), causal=False), prompt, 3)
    for groups, diversity in ((3, 1.0), (0, 1.0), (2, -1.0)):
        with pytest.raises(ValueError, match="groups that divide the paths"):
            diverse_beam_search(model, prompt, 3, 4, groups, diversity)
    for phrase in ([], [5], [-1], [1, 0]):
        with pytest.raises(ValueError, match="is empty, or has tokens outside"):
            constrained_beam_search(model, prompt, 3, [phrase], stop=0)
    with pytest.raises(ValueError, match="have 4 tokens, and there is room for 3"):
        constrained_beam_search(model, prompt, 3, [[1, 2], [3, 1]])
    with pytest.raises(ValueError, match="this one has 2"):
        constrained_beam_search(Toy((5, 5)), torch.ones(1, 1, 2).long(), 3, [[1]])
    with pytest.raises(ValueError, match="the layout fixes tokens"):
        constrained_beam_search(model, prompt, 3, [[1]], forced=torch.tensor([[[-1], [-1], [2]]]))
    with pytest.raises(ValueError, match="forbids every way"):
        constrained_beam_search(model, prompt, 3, [[0, 1, 2]], law=Law(top_k=1))
    assert math.isfinite(constrained_beam_search(model, prompt, 3, [[0, 1, 2]]).scores[0, 0])
