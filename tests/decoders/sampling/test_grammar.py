"""Text keeps to its grammar, by exactly the tokens that can, whatever is drafted."""

from __future__ import annotations

import itertools
import json
import re
import sys

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Random, Toy, Tree, adversary, chi_square, counts, every_kind, joint_law, step_by_step

from zoo.decoders.sampling import Draft, Law, Noise, decode
from zoo.decoders.sampling.processors import Grammar, RepetitionPenalty
from zoo.decoders.sampling.proposers import DraftModel
from zoo.vocabulary import train_bpe

PIECES = [b"a", b"b", b"ab", b"ba", b"c", b"", b"bc"]  # token 5 is no text
END = 7
CARD = 9  # nor is token 8
WORDS = {"regex": "a(ba)*c|b+c", "lark": 'start: "a" tail "c" | /b+/ "c"\ntail: ("b" "a")*'}


def text_of(tokens) -> bytes:
    return b"".join(PIECES[token] for token in tokens if token != END)


def sentences(longest: int) -> set[bytes]:
    """Of the language of both grammars."""
    words = ("".join(word) for length in range(1, longest + 1) for word in itertools.product("abc", repeat=length))
    return {word.encode() for word in words if re.fullmatch(WORDS["regex"], word)}


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(WORDS["regex"], "regex", PIECES, END)


@pytest.mark.parametrize("kind", WORDS)
def test_a_token_is_allowed_if_and_only_if_some_sentence_begins_with_it(kind):
    law = Law(processors=(Grammar(WORDS[kind], kind, PIECES, END),))
    known = sentences(10)
    beginnings = {word[:length] for word in known for length in range(len(word) + 1)}
    ways, rounds = [()], 0
    while ways and rounds < 4:
        rounds, longer = rounds + 1, []
        for way in ways:
            state = law.start(torch.zeros(1, 1, 1, dtype=torch.int64))
            logits = torch.zeros(1, 1, 1, CARD)
            found = state(logits)
            for token in way:
                state.advance(torch.tensor([[token]]), torch.tensor([True]))
                found = state(logits)
            allowed = set(torch.isfinite(found[0, 0, 0]).nonzero()[:, 0].tolist())
            if END in way:
                assert allowed == {END}
                continue
            text = text_of(way)
            expected = {token for token, piece in enumerate(PIECES) if piece and text + piece in beginnings}
            assert allowed == expected | ({END} if text in known else set()), way
            longer += [(*way, token) for token in allowed]
        ways = longer
    assert rounds == 4


LAWS = {
    "alone": lambda grammar: Law(temperature=1.3, processors=(grammar,)),
    "penalised": lambda grammar: Law(top_k=3, processors=(RepetitionPenalty(1.5), grammar)),
    "greedy": lambda grammar: Law(temperature=0, processors=(grammar,)),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_draft_gives_the_tokens_of_going_step_by_step_and_all_of_them_are_sentences(grammar, law):
    """Drafts have forbidden tokens, ends, and trees of both, and windows in which several sentences end."""
    model, law, noise = small_decoder((CARD,), layers=2), law(grammar), Noise(5)
    prompt = random_tokens(model, 4, 3)
    expected = step_by_step(model, prompt, 12, law, noise)
    for name, proposer in every_kind(expected, small_decoder((CARD,), layers=1, seed=5)).items():
        found = decode(model, prompt, 12, law, noise, proposer, window=4)
        assert torch.equal(found.codes, expected[:, 3:]), name
    cut = decode(model, prompt, 12, law, noise, Tree(expected), window=6, stop=END)
    for row, length in enumerate(cut.lengths.tolist()):
        assert torch.equal(cut.codes[row, :length], expected[row, 3:][:length])
        tokens = cut.codes[row, :length, 0].tolist()
        assert END not in tokens[:-1] and (END in tokens or length == 12)
        assert END not in tokens or re.fullmatch(WORDS["regex"].encode(), text_of(tokens))


@pytest.mark.parametrize("rule", ["equal", "rejection"])
def test_complete_outputs_have_the_law(rule):
    """Of three tokens a, b and the end; drafts rank them the wrong way round."""
    toy, rows = Toy((3,)), 2000
    law = Law(processors=(Grammar("a|ab*|b(ab)*", "regex", [b"a", b"b"], 2),))
    prompt = torch.tensor([[1]])
    expected = joint_law(toy, prompt, 4, law)
    for proposer in (DraftModel(adversary(toy)), None if rule == "equal" else Random()):
        found = decode(toy, prompt.expand(rows, -1, -1), 4, law, Noise(4), proposer, rule, window=3)
        assert chi_square(counts(found.codes, (3,)), expected) > 1e-3
    assert (expected > 0).sum() < 20, "most outputs must be forbidden for this test to mean something"


def test_json_keeps_to_its_schema_in_the_pieces_of_a_tokenizer():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]}},
        "required": ["n", "kind"],
        "additionalProperties": False,
    }
    vocabulary = train_bpe([json.dumps({"n": n, "kind": "cat"}) for n in range(40)] + ["kind of dogs"], 280)
    assert max(map(len, vocabulary.pieces)) > 2
    law = Law(temperature=0.7, processors=(Grammar(json.dumps(schema), "json", vocabulary.pieces, vocabulary.end),))
    model, draft = (small_decoder((vocabulary.card,), layers=1, seed=seed) for seed in (0, 1))
    prompt = random_tokens(model, 3, 2)
    found = decode(model, prompt, 60, law, Noise(1), DraftModel(draft), stop=vocabulary.end)
    values = []
    for codes in found.codes[..., 0].tolist():
        if vocabulary.end in codes:
            values.append(json.loads(vocabulary.decode(codes[: codes.index(vocabulary.end)])))
    assert values
    for value in values:
        assert set(value) == {"n", "kind"} and isinstance(value["n"], int) and value["kind"] in ("cat", "dog")


def test_every_way_to_cut_a_text_into_tokens_is_allowed_even_where_one_text_alone_can_follow():
    grammar = Grammar("abc", "regex", PIECES, END)
    logp = Law(processors=(grammar,))(torch.zeros(1, 1, CARD), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert torch.isfinite(logp)[0, 0].nonzero()[:, 0].tolist() == [0, 2]  # a, ab


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("a(b", "regex", "is refused: .*invalid regex"),
        (r"[^\s\S]", "regex", "can't be satisfied"),
        ("d", "regex", "can't be satisfied, or not by the tokens of this vocabulary"),
        ("{nope", "json", "is no JSON"),
        ('{"type": "integer", "minimum": 3, "maximum": 2}', "json", "is refused: Unsatisfiable schema"),
        ('start: "a" b', "lark", "is refused: .*unknown name"),
        ('b: "a"', "lark", "is refused: no start rule"),
        ('start: "a" start', "lark", "can't be satisfied: what it begins with always needs itself again"),
        ('start: "a" x\nx: ("c" start)+ | [x] start -> y', "lark", "can't be satisfied: .* never ends"),
        ('{"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}', "json", "can't be .* never ends"),
        (
            '{"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/t"}}}}',
            "json",
            "can't be satisfied: .* never ends",
        ),
    ],
)
def test_a_grammar_that_cannot_be_satisfied_is_named(text, kind, why):
    with pytest.raises(ValueError, match=f"the {kind} grammar {re.escape(repr(text))} {why}") as raised:
        Grammar(text, kind, PIECES, END)
    assert "\n" not in str(raised.value)


def test_a_way_without_an_end_is_found_where_it_stops():
    """`ad` can't be written without d, which shows behind a."""
    law = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))
    state = law.start(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert torch.isfinite(state(torch.zeros(1, 1, 1, CARD))).nonzero()[:, -1].tolist() == [0, 1, 3]
    state.advance(torch.tensor([[0]]), torch.tensor([True]))
    with pytest.raises(ValueError, match=r"the regex grammar 'ad\|ba' can't be satisfied"):
        state(torch.zeros(1, 1, 1, CARD))


def test_a_forbidden_token_that_the_layout_forces_is_an_error_and_one_that_is_no_text_is_not(grammar):
    model, prompt = small_decoder((CARD,), layers=1, specials=2), torch.zeros(2, 1, 1, dtype=torch.int64)
    law, forced = Law(processors=(grammar,)), torch.full((1, 3, 1), -1)
    forced[0, 2] = CARD  # a mark that only goes in
    whole = decode(model, prompt, 9, law, Noise(2), Random(), forced=forced, stop=END)
    for row in range(2):
        tokens = whole.codes[row, : whole.lengths[row], 0].tolist()
        assert tokens[1] == CARD or END in tokens[:1]
        if tokens[-1] == END:
            assert re.fullmatch(WORDS["regex"].encode(), text_of(token for token in tokens if token != CARD))
    forced[0, 1] = 5
    for proposer in (None, Random(), Star()):
        with pytest.raises(ValueError, match="forbids a token that came; the layout must not force it"):
            decode(model, prompt, 5, law, Noise(2), proposer, forced=forced)


class Star(Random):
    def propose(self, ctx, n):
        chain = super().propose(ctx, n)
        return Draft(chain.tokens, chain.count, torch.full_like(chain.tokens[..., 0], -1))


def test_what_does_not_fit_is_refused(grammar):
    with pytest.raises(ValueError, match="token 0 is to end a sentence, but it is text"):
        Grammar("a", "regex", PIECES, 0)
    prefix = torch.zeros(1, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="knows 8 tokens, the model 5"):
        Law(processors=(grammar,))(torch.zeros(1, 1, 5), prefix)
    with pytest.raises(ValueError, match="models of one codebook; this one has 2"):
        Law(processors=(grammar,))(torch.zeros(1, 2, CARD), prefix.expand(-1, -1, 2))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"install media-token-zoo\[grammar\]"):
        Grammar("a", "regex", PIECES, END)
