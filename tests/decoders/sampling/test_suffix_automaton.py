"""The automaton finds what a search of every piece finds, and what followed there is copied."""

from __future__ import annotations

import pytest
import torch
from toys import Random, Toy

from zoo.decoders.sampling import Draft, decode
from zoo.decoders.sampling.proposers import SuffixAutomaton
from zoo.decoders.sampling.proposers.suffix_automaton import _Automaton


def line(seed: int, letters: int = 3, length: int = 40) -> list[tuple[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [(letter,) for letter in torch.randint(letters, (length,), generator=generator).tolist()]


def ends_of(piece: list, whole: list) -> list[int]:
    """Last places of all its occurrences."""
    return [end for end in range(len(piece) - 1, len(whole)) if whole[end - len(piece) + 1 : end + 1] == piece]


@pytest.mark.parametrize("letters", [1, 2, 3])
def test_the_longest_piece_that_was_there_before_is_known_at_every_step(letters):
    automaton, whole = _Automaton(), []
    for step in line(0, letters):
        whole.append(step)
        automaton.extend(step)
        longest = max(n for n in range(len(whole)) if len(ends_of(whole[len(whole) - n :], whole)) > 1 or n == 0)
        assert automaton.repeats == longest
        if longest:
            assert automaton.before in ends_of(whole[len(whole) - longest :], whole)[:-1]


def test_another_line_is_matched_at_every_step():
    corpus, automaton, other = line(1, 4, 30), _Automaton(), []
    for step in corpus:
        automaton.extend(step)
    state = length = 0
    for step in line(2, 5, 40):  # one letter is not in the corpus
        other.append(step)
        state, length = automaton.match(state, length, step)
        assert length == max(n for n in range(len(other) + 1) if n == 0 or ends_of(other[len(other) - n :], corpus))
        if length:
            assert automaton.end[state] in ends_of(other[len(other) - length :], corpus)


def drafts_behind(prompt: torch.Tensor, window: int = 6, **options) -> list[list[int]]:
    """What is drafted in the first round, row by row."""
    drafts = []

    class Spy(SuffixAutomaton):
        def propose(self, ctx, n):
            drafts.append(super().propose(ctx, n))
            return drafts[-1]

    decode(Toy((10,)), prompt[..., None], 8, proposer=Spy(**options), window=window)
    first: Draft = drafts[0]
    return [row[:count, 0].tolist() for row, count in zip(first.tokens, first.count, strict=True)]


def test_the_longer_the_match_the_more_is_copied():
    prompt = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 1, 2], [9, 1, 2, 3, 4, 5, 6, 1, 2, 3], [4] * 10])
    assert drafts_behind(prompt) == [[3, 4, 5, 6], [4, 5, 6, 1, 2, 3], [4] * 6]
    assert drafts_behind(prompt, ahead=1) == [[3, 4], [4, 5, 6], [4] * 6]
    assert drafts_behind(prompt, shortest=3) == [[], [4, 5, 6, 1, 2, 3], [4] * 6]


def test_what_the_row_does_not_know_is_looked_for_in_the_corpus_and_then_left_to_another():
    corpus = torch.tensor([[7], [1], [2], [8], [9], [9], [5], [2], [4], [3]])
    prompt = torch.tensor([[0, 3, 1, 2], [1, 2, 1, 2], [7, 8, 6, 5]])
    assert drafts_behind(prompt, corpus=corpus, shortest=2) == [[8, 9, 9, 5], [1, 2, 1, 2], []]

    class Nines(Random):
        def propose(self, ctx, n):
            return Draft(torch.full((ctx.rows, n, 1), 9), torch.full((ctx.rows,), 3))

    assert drafts_behind(prompt, corpus=corpus, fallback=Nines(), shortest=2)[1:] == [[1, 2, 1, 2], [9, 9, 9]]


def test_matches_of_nothing_are_refused():
    for options in ({"shortest": 0}, {"ahead": 0}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            SuffixAutomaton(**options)
