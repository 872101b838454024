"""Whether a grammar has any sentence that ends: rules that always need themselves again have none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

_RULE = re.compile(r"^[ \t]*[?!]?(\w+)(?:\[[^\]]*\])?(?:\.\d+)?[ \t]*:", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*%.*$", re.MULTILINE)
_WORD = re.compile(r'"(?:\\.|[^"\\])*"i?|/(?![/*])(?:\\.|[^/\\])+/\w*|//[^\n]*|[A-Za-z_]\w*|\d+|->|\.\.|\S')
Has = Callable[[Collection[str]], bool]
"""Whether something has a sentence, given the names that have one."""


def lark_ends(text: str) -> bool:
    """Whether the rule `start` of a grammar as Lark writes it has a sentence. Terminals are taken to have one."""
    text = _DIRECTIVE.sub("", text)
    heads = list(_RULE.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    rules: dict[str, Has] = {}
    for head, end in zip(heads, ends, strict=True):
        words = [word for word in _WORD.findall(text[head.end() : end]) if not word.startswith("//")]
        rules[head[1]] = _alternatives(iter([*words, ")"]), {each[1] for each in heads})
    return "start" not in rules or "start" in _grown(rules)


def json_ends(text: str) -> bool:
    """Whether a JSON schema has a value that is finite; what it says beyond structure is taken to be possible."""
    whole = json.loads(text)
    names = {ref for ref in re.findall(r'"\$ref"\s*:\s*"(#[^"]*)"', json.dumps(whole))}
    return _possible(whole, _grown({name: partial(_possible, _resolved(whole, name)) for name in names}))


def _grown(rules: dict[str, Has]) -> set[str]:
    """The names that have a sentence, found from those that need no others on."""
    known: set[str] = set()
    while found := {name for name, has in rules.items() if name not in known and has(known)}:
        known |= found
    return known


def _alternatives(words: Iterator[str], names: Collection[str]) -> Has:
    """Reads up to the bracket that closes."""
    ways: list[list[tuple[Has, bool]]] = [[]]  # and whether each part may be left out
    for word in words:
        if word in (")", "]"):
            break
        if word == "|":
            ways.append([])
        elif word in ("?", "*") and ways[-1]:
            ways[-1][-1] = (ways[-1][-1][0], True)
        elif word == "~" and ways[-1]:
            ways[-1][-1] = (ways[-1][-1][0], int(next(words)) == 0)
        elif word == "->":
            next(words)  # another name for the way
        elif word in ("(", "["):
            ways[-1].append((_alternatives(words, names), word == "["))
        elif word == "{":
            _skipped(words)
        elif word in names:
            ways[-1].append((lambda known, name=word: name in known, False))
    return lambda known: any(all(free or has(known) for has, free in way) for way in ways)


def _skipped(words: Iterator[str]) -> None:
    """What stands within braces is another language."""
    depth = 1
    for word in words:
        depth += {"{": 1, "}": -1}.get(word, 0)
        if not depth:
            return


def _resolved(whole: Any, ref: str) -> Any:
    part = whole
    for key in ref.lstrip("#").strip("/").split("/") if ref.strip("#/") else []:
        key = key.replace("~1", "/").replace("~0", "~")
        part = part[int(key)] if isinstance(part, list) else part.get(key, True) if isinstance(part, dict) else True
    return part


def _possible(schema: Any, known: Collection[str]) -> bool:
    if not isinstance(schema, dict):
        return schema is not False
    if str(schema.get("$ref", "")).startswith("#") and schema["$ref"] not in known:
        return False
    if not all(_possible(part, known) for part in schema.get("allOf", ())):
        return False
    if any(key in schema and not any(_possible(part, known) for part in schema[key]) for key in ("anyOf", "oneOf")):
        return False
    kinds = schema.get("type", "any")
    if kinds in ("object", ["object"]):
        properties = schema.get("properties", {})
        return all(_possible(properties.get(name, True), known) for name in schema.get("required", ()))
    if kinds in ("array", ["array"]):
        least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
        rest = [schema.get("items", True)] if least > len(first) else []
        return all(_possible(part, known) for part in [*first[:least], *rest])
    return True
