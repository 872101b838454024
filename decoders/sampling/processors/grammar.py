"""Text that keeps to a grammar, a regular expression or a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.processors.base import Processor, Tracker
from zoo.decoders.sampling.processors.endless import json_ends, lark_ends

Kind = Literal["regex", "json", "lark"]


class Grammar(Processor):
    """Forbids tokens behind which the text behind the prompt could not become a sentence, and the end before it is one.

    What a token may be is decided by its bytes alone: every way to cut a sentence into tokens is allowed, so what is
    left is the model's own law, cut and renormalised at each step (which is not the model's law of sentences: Park et
    al., "Grammar-Aligned Decoding", arXiv 2405.21047). Behind the end nothing but the end comes.

    Cost: the parser is that of `llguidance` and runs on the CPU. For each step of each row it is told a token, for
    which it waits for the device, and gives a mask of the vocabulary. Each fork, such as a drafter's or a tree's,
    copies it.

    Models of one codebook only; their tokens that are not text are forbidden. Tokens behind the vocabulary, as layouts
    force them, are no text: the grammar goes on behind them.

    Args:
        text: A regular expression, a JSON schema, or a context-free grammar as Lark writes it, whose rule `start` is
            the sentence.
        kind: Which of them.
        pieces: Bytes of each token of text, which are the first ids of the vocabulary; none for a token that is no
            text, or that stands for the `end`.
        end: The token behind a sentence. Have `decode` stop there.

    Raises:
        ValueError: `text` is no such thing, can't be satisfied, or never ends; an end that is a token of text.
        ImportError: `llguidance` is not installed.
    """

    def __init__(self, text: str, kind: Kind, pieces: Sequence[bytes], end: int):
        self.text, self.kind, self.end = text, kind, end
        self.known = max(len(pieces), end + 1)
        # The library marks tokens that are no text by the byte 255, which no text has.
        self.pieces = [b"" if piece.startswith(b"\xff") else piece for piece in pieces]
        self.pieces += [b""] * (self.known - len(pieces))
        if end < 0 or self.pieces[end]:
            raise ValueError(f"token {end} is to end a sentence, but it is text; give a token without bytes")
        self._matcher = self._parser()
        if (kind == "lark" and not lark_ends(text)) or (kind == "json" and not json_ends(text)):
            raise self.error("can't be satisfied: what it begins with always needs itself again, and never ends")
        if not self.allowed(first := self._matcher.deep_copy()).any():
            raise ValueError(self.unsatisfied(first))

    def allowed(self, matcher: Any) -> Bool[Tensor, "known"]:
        """What may come next."""
        mask = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        mask[self.end] = matcher.is_accepting()
        return mask

    def unsatisfied(self, matcher: Any) -> str:
        """Of a parser that allows nothing, why."""
        reason = matcher.get_error().strip().split("\n")[0] or "no sentence goes on like this"
        return str(self.error(f"can't be satisfied, or not by the tokens of this vocabulary: {reason}"))

    def complete(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, up to the end if it is among them, are a sentence."""
        matcher = self._matcher.deep_copy()
        for token in tokens:
            if token == self.end:
                break
            if token < self.known and self.pieces[token] and not matcher.consume_token(token):
                return False
        return bool(matcher.is_accepting())

    def told(self, tokens: Sequence[int]) -> Any:
        """A parser that knows these tokens."""
        matcher = self._matcher.deep_copy()
        for token in tokens:
            matcher.consume_token(token)
        return matcher

    def start(self, tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]) -> GrammarTracker:
        if tokens.shape[2] != 1:
            raise self.error(f"holds for models of one codebook; this one has {tokens.shape[2]}")
        return GrammarTracker(self, [_Row(self._matcher.deep_copy()) for _ in range(len(tokens))], self.known)

    def _parser(self) -> Any:
        try:
            import llguidance
        except ImportError:
            raise ImportError("grammars need the package llguidance; install media-token-zoo[grammar]") from None
        if self.kind == "json":
            try:
                inner = {"json_schema": json.loads(self.text)}
            except ValueError as error:
                raise self.error(f"is no JSON ({error})") from None
        elif self.kind == "regex":
            inner = json.loads(llguidance.LLMatcher.grammar_from_regex(self.text))["grammars"][0]
        else:
            inner = {"lark_grammar": self.text}
        # Else, where only one text can follow, a single way to cut it into tokens would be allowed.
        outer = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: @sentence'}
        tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Pieces(self.pieces, self.end)))
        whole = json.dumps({"grammars": [outer, inner | {"name": "sentence"}]})
        matcher = llguidance.LLMatcher(tokenizer, whole, log_level=0)
        if matcher.is_error():
            raise self.error(f"is refused: {matcher.get_error().strip().splitlines()[0]}")
        return matcher

    def error(self, what: str) -> ValueError:
        text = self.text if len(self.text) <= 200 else f"{self.text[:200]} ..."
        return ValueError(f"the {self.kind} grammar {text!r} {what}")


class _Pieces:
    """Tokens, as the library takes them."""

    bos_token_id, special_token_ids = None, ()

    def __init__(self, tokens: list[bytes], end: int):
        self.tokens, self.eos_token_id = tokens, end

    def __call__(self, text: bytes) -> list[int]:
        """Some way to cut a text; the library wants one, and makes no use of it where nothing is forced."""
        by_bytes = {piece: token for token, piece in enumerate(self.tokens)}
        return [by_bytes[bytes([byte])] for byte in text if bytes([byte]) in by_bytes]


class _Where(Enum):
    WITHIN, ENDED, ASTRAY = range(3)


@dataclass
class _Row:
    """A parser, the tokens that it was told, and for each step since the fork where it led and whether it was told.

    A parser that was asked where nothing can follow is broken and does not come back; it is made anew from its tokens.
    """

    parser: Any
    begin: _Where = _Where.WITHIN
    steps: list[tuple[_Where, bool]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)

    @property
    def where(self) -> _Where:
        return self.steps[-1][0] if self.steps else self.begin

    def fork(self) -> _Row:
        return _Row(self.parser.deep_copy(), self.where, told=self.told.copy())

    def tell(self, token: int) -> None:
        self.parser.consume_token(token)
        self.told.append(token)

    def forget(self, count: int) -> None:
        """The last so many tokens."""
        self.parser.rollback(count)
        del self.told[len(self.told) - count :]


class GrammarTracker(Tracker):
    """A parser for each row, which is told what it allows.

    Drafts may have other tokens. Behind these all is allowed: nobody accepts what lies there, and a law it must be.
    """

    def __init__(self, grammar: Grammar, rows: list[_Row], vocabulary: int):
        self.grammar, self.rows, self._vocabulary = grammar, rows, vocabulary

    def logits(self, logits: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        known, vocabulary = self.grammar.known, logits.shape[-1]
        if vocabulary < known:
            raise ValueError(f"the grammar knows {known} tokens, the model {vocabulary}; give the pieces of its own")
        self._vocabulary = vocabulary
        allowed = torch.zeros(len(self.rows), vocabulary, dtype=torch.bool)
        for mask, row in zip(allowed, self.rows, strict=True):
            if row.begin is _Where.ASTRAY:
                raise self.grammar.error("forbids a token that came; the layout must not force it")
            if row.where is _Where.ASTRAY:
                mask[:] = True
            elif row.where is _Where.ENDED:
                mask[self.grammar.end] = True
            else:
                mask[:known] = self.grammar.allowed(row.parser)
                if not mask.any():
                    row.parser = self.grammar.told(row.told)
        return logits.masked_fill(~allowed[:, None].to(logits.device), -torch.inf)

    def why(self, row: int) -> str | None:
        here, parser = self.rows[row], self.rows[row].parser.deep_copy()
        if here.where is not _Where.WITHIN or self.grammar.allowed(parser).any():
            return None
        return self.grammar.unsatisfied(parser)

    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        for row, token, moved in zip(self.rows, tokens[:, 0].tolist(), moves.tolist(), strict=True):
            if moved:
                row.steps.append(self._step(row, token))

    def rollback(self, n: Int[Tensor, "R"]) -> None:
        for row, count in zip(self.rows, n.tolist(), strict=True):
            kept = len(row.steps) - count
            row.forget(sum(told for _, told in row.steps[kept:]))
            row.begin, row.steps = row.steps[kept - 1][0] if kept else row.begin, []

    def fork(self, rows: Int[Tensor, "S"]) -> GrammarTracker:
        return GrammarTracker(self.grammar, [self.rows[row].fork() for row in rows.tolist()], self._vocabulary)

    def _step(self, row: _Row, token: int) -> tuple[_Where, bool]:
        """Where a token leads. The end is nothing that parsers are told, as not all of them come back from there."""
        if token >= self._vocabulary or row.where is _Where.ASTRAY:
            return row.where, False
        if token == self.grammar.end:
            over = row.where is _Where.ENDED or row.parser.is_accepting()
            return (_Where.ENDED if over else _Where.ASTRAY), False
        text = token < self.grammar.known and self.grammar.pieces[token]
        if row.where is _Where.WITHIN and text and row.parser.validate_tokens([token]):
            row.tell(token)
            return _Where.WITHIN, True
        return _Where.ASTRAY, False
