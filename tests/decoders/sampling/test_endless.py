"""Grammars without a sentence that ends are told from those with one."""

from __future__ import annotations

import json

import pytest

from zoo.decoders.sampling.processors import Grammar
from zoo.decoders.sampling.processors.endless import json_ends, lark_ends

LARK = {
    'start: "a" start | "b"': True,
    'start: "a" start?': True,
    'start: "a" start*': True,
    'start: "a" start~0..3': True,
    'start: "a" start~1..3': False,
    'start: "a" start+': False,
    'start: "a" [start]': True,
    'start: ("a" | start) // "b" start': True,
    'start: "(" start ")"': False,
    'start: "| x" start\n  | /a|b/ start': False,
    '?start: sum\nsum: sum "+" NUMBER | NUMBER\nNUMBER: /[0-9]+/': True,
    "start: a\na: b\nb: a": False,
    'start: a\na: b\nb: a | "x" -> done': True,
    'start: "x" a\n%ignore /[ ]+/\na: "y"': True,
    'start: %json {"a": "start"} a\na: a': False,
}
REF = {"$ref": "#"}
JSON = [
    ({"type": "object", "properties": {"next": REF}}, True),
    ({"type": "object", "properties": {"next": REF}, "required": ["next"]}, False),
    ({"type": "object", "properties": {"next": {"anyOf": [REF, {"type": "null"}]}}, "required": ["next"]}, True),
    ({"type": "object", "properties": {"next": {"oneOf": [REF]}}, "required": ["next"]}, False),
    ({"type": "array", "items": REF}, True),
    ({"type": "array", "items": REF, "minItems": 1}, False),
    ({"type": "array", "prefixItems": [True], "items": REF, "minItems": 1}, True),
    ({"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"allOf": [{"$ref": "#/$defs/a~1b"}]}}}, False),
    (True, True),
]


@pytest.mark.parametrize(("text", "ends"), LARK.items())
def test_a_rule_ends_if_some_way_does_without_itself(text, ends):
    assert lark_ends(text) == ends


@pytest.mark.parametrize(("schema", "ends"), JSON)
def test_a_value_ends_if_nothing_in_it_must_be_like_it(schema, ends):
    assert json_ends(json.dumps(schema)) == ends


def test_a_sentence_is_complete_and_its_beginning_is_not():
    grammar = Grammar("(ab)+c?", "regex", [b"a", b"b", b"ab", b"c", b"d"], 5)
    for tokens in ([0, 1], [2], [2, 2, 3], [2, 5], [2, 5, 4]):
        assert grammar.complete(tokens)
    for tokens in ([], [0], [2, 0], [2, 4]):
        assert not grammar.complete(tokens)
