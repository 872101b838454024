"""Searches are named in a word, with their settings, and every wrong word says what there is."""

from __future__ import annotations

import pytest

from zoo.decoders.sampling import search
from zoo.decoders.sampling.contrastive_search import contrastive_search
from zoo.decoders.sampling.search import arithmetic_samples, beam_search, best_of, diverse_beam_search

FOUND = {
    "beam:8": (beam_search, dict(width=8)),
    "beam:8,length_penalty=0.6,patience=2": (beam_search, dict(width=8, length_penalty=0.6, patience=2.0)),
    "beam:8,.6": (beam_search, dict(width=8, length_penalty=0.6)),
    "diverse:6": (diverse_beam_search, dict(width=6, groups=6)),
    "diverse:6,groups=3,diversity=1": (diverse_beam_search, dict(width=6, groups=3, diversity=1.0)),
    "contrastive:5,penalty=0.4": (contrastive_search, dict(candidates=5, penalty=0.4)),
    "arithmetic:4": (best_of, dict(count=4, sampler=arithmetic_samples)),
}


@pytest.mark.parametrize("text", FOUND)
def test_a_word_names_a_search_and_its_settings(text):
    found, (function, settings) = search.find(text), FOUND[text]
    assert (found.function, found.settings) == (function, settings)


def test_a_beam_search_keeps_its_settings_when_it_gets_phrases():
    found = search.with_phrases(search.find("beam:8,patience=2"), [[1, 2]])
    assert found.settings == dict(width=8, patience=2.0, phrases=[[1, 2]])


WRONG = {
    "bean:8": "there is no search 'bean'; did you mean 'beam'?",
    "beam:8,pat=2": "the search beam has no setting 'pat'; there is length_penalty, patience, width",
    "beam:8,steps=2": "no setting 'steps'",  # `zoo.generate` and `decode` take these
    "best-of:8,sampler=2": "no setting 'sampler'",
    "arithmetic:8,sampler=2": "no setting 'sampler'",
    "superposed:3,trust=.5": "there are no n-grams to trust in; name a file of text, as in superposed:3,ngrams=FILE",
    "superposed:3,.5": "there are no n-grams to trust in",
    "superposed:3,ngrams=a.txt": "n-grams of a file are for decoders of text",
    "superposed:3,trst=.5": "the search superposed has no setting 'trst'; did you mean 'trust'?",
    "contrastive:5,.6,2": "takes candidates, penalty; '5,.6,2' is more than that",
    "beam:8,patience=x": "the setting patience of the search beam is 'x'; give a number",
    "beam:8,width=4": "the search beam gets width twice; give it once",
    "beam:patience=2": "does not say how many candidates; give a number, as in beam:8",
    "beam:x": "give a number, as in beam:8",
    "beam:8+mbr:3": "the search beam is not made of others; leave +mbr:3 out",
}


def test_a_superposed_decoding_gets_its_n_grams_and_how_far_to_trust_them():
    found = search.find("superposed:3,ngrams=a.txt,trust=0.3", lambda file: search.NGrams([file.encode()], 256))
    counted = found.settings.pop("ngrams")
    assert (found.function, found.settings) == (search.superposed_decoding, dict(drafts=3, trust=0.3))
    assert counted.logp(b"a.").argmax() == ord("t")


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_word_says_what_there_is(text):
    with pytest.raises(ValueError) as error:
        search.find(text)
    assert WRONG[text] in str(error.value)
