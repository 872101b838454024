"""Superposed drafts come from one row a pass, which reads the mean of their embeddings."""

from __future__ import annotations

import pytest
import torch
from published_models import MAPPED, published
from small_decoders import random_tokens, small_decoder
from toys import Toy

from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig
from zoo.decoders.huggingface import HuggingFaceDecoder
from zoo.decoders.sampling import Law, decode
from zoo.decoders.sampling.processors import NoRepeat
from zoo.decoders.sampling.search import NGrams, superposed_decoding
from zoo.decoders.sampling.search.superposed import embedding_of, superposed

TEXTS = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8], [9, 2, 3, 4]]


def models():
    return {"own": small_decoder((11,)), "transformers": HuggingFaceDecoder(published(MAPPED["llama"]))}


@pytest.mark.parametrize("name", models())
def test_one_draft_is_greedy(name):
    model = models()[name]
    prompt = random_tokens(model, 3, 4)
    stop = [2, 5, 7]
    found = superposed_decoding(model, prompt, 8, 1, stop=stop)
    greedy = decode(model, prompt, 8, Law(temperature=0), stop=stop)
    assert torch.equal(found.codes, greedy.codes) and torch.equal(found.lengths, greedy.lengths)
    assert found.exactness == "approximate" and found.trace.target_forwards.sum() == len(greedy.trace.seconds)


@pytest.mark.parametrize("name", models())
def test_a_pass_reads_the_weighted_mean_of_the_embeddings(name):
    model = models()[name]
    table = embedding_of(model)
    weight = getattr(table, "table", table).weight
    tokens, weights = torch.tensor([[[3], [8]], [[1], [4]]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    with torch.no_grad():
        with superposed(table, tokens, weights):
            mixed = model(torch.zeros(2, 1, 1, dtype=torch.int64)).logits
        assert not table._forward_hooks  # nothing is left behind
        torch.testing.assert_close(mixed[1], model(tokens[1:, 0, None]).logits[0], rtol=1e-5, atol=1e-5)
        weight[0] = 0.25 * weight[3] + 0.75 * weight[8]  # a token that is the mean
        torch.testing.assert_close(mixed[0], model(torch.zeros(1, 1, 1).long()).logits[0], rtol=1e-5, atol=1e-5)


def by_definition(model, prompt, steps, drafts, ngrams, trust):
    """Paths of one row `[P]` and their scores: the whole past is read anew at each step, as vectors."""
    weight = model.embedding.table.weight
    past, known = weight[prompt], [([], 0.0)]
    for _ in range(steps):
        positions = torch.arange(len(past))[None]
        hidden, _ = model.transformer(past[None], positions)
        law = model.heads(hidden)[0, -1, 0].log_softmax(-1)
        options = []
        for codes, score in known:
            blend = (1 - trust) * law + trust * ngrams.logp([*prompt.tolist(), *codes])
            options += [([*codes, token], score + float(p)) for token, p in enumerate(blend.log_softmax(-1))]
        known = sorted(options, key=lambda option: -option[1])[:drafts]
        shares = torch.tensor([score for _, score in known], dtype=weight.dtype).softmax(0)
        last = torch.stack([weight[codes[-1]] for codes, _ in known])
        past = torch.cat((past, (shares @ last)[None]))
    return known


@torch.no_grad()
def test_drafts_are_those_of_the_definition_row_by_row():
    model, ngrams = small_decoder((11,)), NGrams(TEXTS, 11, 4)
    prompt, lengths = random_tokens(model, 2, 5), torch.tensor([5, 3])
    found = superposed_decoding(model, prompt, torch.tensor([6, 4]), 3, ngrams, trust=0.3, lengths=lengths)
    for row, (length, steps) in enumerate(((5, 6), (3, 4))):
        expected = by_definition(model, prompt[row, :length, 0], steps, 3, ngrams, 0.3)
        assert [codes[:, 0].tolist() for codes, _ in found.candidates.each(row)] == [codes for codes, _ in expected]
        scores = torch.tensor([score for _, score in expected], dtype=torch.float64)
        torch.testing.assert_close(found.scores[row], scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.candidates.logp[row].sum((1, 2)).double(), scores, atol=1e-4, rtol=0)
    assert found.trace.target_forwards.sum() == 6  # of one row each, for three drafts


def test_drafts_that_ended_stay_and_the_layout_is_kept():
    model = small_decoder((11,), specials=2)
    prompt, forced = random_tokens(model, 2, 3), torch.full((1, 5, 1), -1)
    forced[0, 4] = 12
    found = superposed_decoding(model, prompt, 12, 4, NGrams(TEXTS, 11), forced=forced, stop=[1, 4, 6])
    for row in range(2):
        for codes, _ in found.candidates.each(row):
            assert codes[1] == 12 if len(codes) > 1 else codes[0] in (1, 4, 6)
            assert len(codes) == 12 or codes[-1] in (1, 4, 6)
            assert not torch.isin(codes[:-1], torch.tensor([1, 4, 6])).any()
        lines = {tuple(codes[:, 0].tolist()) for codes, _ in found.candidates.each(row)}
        assert len(lines) == 4
    assert len(found.candidates.lengths.unique()) > 1


def test_the_embedding_is_found_where_there_are_conditions_and_else_asked_for():
    inner = small_decoder((11,)).config
    model = ConditionedAutoregressive(ConditionedConfig(ConditionConfig(16, classes=3, way="prefix"), inner)).eval()
    assert embedding_of(model) is model.decoder.embedding
    superposed_decoding(model, torch.ones(1, 2, 1).long(), 3)
    with pytest.raises(ValueError, match="Toy embeds its tokens is not known"):
        superposed_decoding(Toy((5,)), torch.ones(1, 1, 1).long(), 3)


def test_ngrams_blend_long_contexts_with_short_ones():
    ngrams = NGrams(TEXTS, 11, 3)
    for context in ([], [3], [2, 3], [5, 5, 2, 3], [10, 10]):
        assert float(ngrams.logp(context).exp().sum()) == pytest.approx(1, abs=1e-6)
    p = ngrams.logp([2, 3]).exp()
    assert p.argmax() == 4 and p[7] > p[2] > 0
    # Of 15 tokens 9 are different; behind nothing, 4 stands twice.
    assert float(ngrams.logp([])[4].exp()) == pytest.approx((2 + 9 / 11) / (15 + 9), rel=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        NGrams(TEXTS, 11, 0)


@pytest.mark.parametrize(
    "options",
    [{"drafts": 0}, {"trust": 1.5}, {"law": Law(processors=(NoRepeat(2),))}],
    ids=lambda each: next(iter(each)),
)
def test_what_cannot_be_superposed_is_refused(options):
    with pytest.raises(ValueError, match="expected one codebook"):
        superposed_decoding(small_decoder((11,)), torch.ones(1, 1, 1).long(), 3, **options)
    with pytest.raises(ValueError, match="2 codebooks"):
        superposed_decoding(small_decoder(), torch.ones(1, 1, 2).long(), 3)
