"""What the tokens of a decoder are: how codes are laid out, and what they are codes of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.configs import from_json, read_json, suggestion, to_json
from zoo.decoders import layouts
from zoo.decoders.base import DecoderInfo
from zoo.decoders.layouts import Layout
from zoo.decoders.masked import Masking
from zoo.text_vocabulary import TextVocabulary
from zoo.vocabulary import Vocabulary

TOKENS = "tokens.json"
VOCABULARIES = {"vocabulary": "vocabulary.json", "text_vocabulary": "text-vocabulary.json"}


@dataclass(frozen=True)
class TokenFacts:
    """What belongs to a trained decoder besides its weights.

    Attributes:
        layout: How codes become its steps.
        vocabulary: Of text; None for codes of a codec.
        codec: Name of the codec that made the codes; "" for text.
        weights: Hex digest of that codec's weights.
        labels: Names of the classes that it is conditioned on.
        paces: For each of them, the mean number of frames for a byte of text; () where there is no text.
        grid: Of the pictures that it learned from, if they all had the same; else ().
        reference: Most frames of the references that it learned from; 0: none.
        masking: What its training hid; None: nothing, or nobody noted it.
        text_vocabulary: Of the texts that it is conditioned on; None: bytes, or it is told no texts.
        unrolled: It learned to restore codes that were ruined (`zoo.decoders.unrolled_denoising`), and fills in none
            that are masked, though its network is that of a masked decoder.
    """

    layout: Layout
    vocabulary: Vocabulary | None = None
    codec: str = ""
    weights: str = ""
    labels: tuple[str, ...] = ()
    paces: tuple[float, ...] = ()
    grid: tuple[int, ...] = ()
    reference: int = 0
    masking: Masking | None = None
    text_vocabulary: TextVocabulary | None = None
    unrolled: bool = False

    def difference(self, other: TokenFacts) -> str | None:
        """What makes the tokens of another decoder others than these; None if they are the same."""
        told = ("text_vocabulary",) if self.text_vocabulary and other.text_vocabulary else ()  # else no text, or bytes
        names = ("layout", "vocabulary", "codec", "weights", *told)
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)

    def to_json(self) -> dict[str, Any]:
        """For `facts_from_json`; plain values."""
        masking = {} if self.masking is None else to_json(self.masking)
        masking.pop("cards", None)  # the layout's
        return {
            "layout": {"kind": type(self.layout).__name__} | to_json(self.layout),
            "vocabulary": self.vocabulary.content if self.vocabulary else None,
            "codec": self.codec,
            "weights": self.weights,
            "labels": list(self.labels),
            "paces": list(self.paces),
            "grid": list(self.grid),
            "reference": self.reference,
            "masking": masking or None,
            "text_vocabulary": self.text_vocabulary.content if self.text_vocabulary else None,
            "unrolled": self.unrolled,
        }


@dataclass(frozen=True)
class _Fields:
    layout: dict[str, Any]
    vocabulary: str | None
    codec: str
    weights: str
    labels: tuple[str, ...]
    paces: tuple[float, ...] = ()
    grid: tuple[int, ...] = ()
    reference: int = 0
    masking: dict[str, Any] | None = None
    text_vocabulary: str | None = None
    unrolled: bool = False


def facts_from_json(values: Any, where: str) -> TokenFacts:
    """
    Raises:
        UserError: They are not what `TokenFacts.to_json` gives.
    """
    fields = from_json(_Fields, values, where)
    kind = fields.layout.get("kind")
    known = {name: getattr(layouts, name) for name in layouts.__all__}
    known = {name: found for name, found in known.items() if issubclass(found, Layout) and found is not Layout}
    if kind not in known:
        raise UserError(f"{where}: unknown layout {kind!r}{suggestion(str(kind), known)}")
    sizes = {name: value for name, value in fields.layout.items() if name != "kind"}
    layout = from_json(known[kind], sizes, f"{where}: layout")
    vocabulary = None if fields.vocabulary is None else Vocabulary(fields.vocabulary)
    masking = None
    if fields.masking is not None:
        masking = from_json(Masking, fields.masking | {"cards": layout.cards}, f"{where}: masking")
    return TokenFacts(
        layout, vocabulary, fields.codec, fields.weights, fields.labels, fields.paces, fields.grid, fields.reference,
        masking, None if fields.text_vocabulary is None else TextVocabulary(fields.text_vocabulary), fields.unrolled,
    )  # fmt: skip


def contents(facts: TokenFacts) -> dict[str, str]:
    """Texts of the files that hold the facts, by name; each vocabulary has its own, as `tokenizers` reads it."""
    values, files = facts.to_json(), {}
    for name, file in VOCABULARIES.items():
        if values[name] is not None:
            files[file], values[name] = values[name], file
    return files | {TOKENS: json.dumps(values, indent=2) + "\n"}


def read_facts(directory: Path) -> TokenFacts:
    """Of a directory that holds a decoder.

    Raises:
        UserError: A file is missing or damaged.
    """
    path = directory / TOKENS
    values = read_json(path)
    for name, file in VOCABULARIES.items():
        if isinstance(values, dict) and values.get(name) is not None:
            try:
                values[name] = (directory / file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{directory / file}: {error}; a decoder of text needs this file") from None
    return facts_from_json(values, str(path))


def positions_of(layout: Layout, info: DecoderInfo, shape: tuple[int, ...]) -> Int[Tensor, "1 N *axes"] | None:
    """Positions of the steps of a grid, as a decoder that goes step by step takes them; None: their order.

    Raises:
        ValueError: Positions of other axes than the decoder's; or a layout that decodes several steps at once.
    """
    blocks = layout.block_ids(shape)
    if not torch.equal(blocks, torch.arange(len(blocks))):
        raise ValueError(f"{type(layout).__name__} decodes steps together; this needs one that goes step by step")
    positions = layout.positions(shape)
    if info.axes == 1:
        return positions[None, :, 0] if positions.shape[1] == 1 else None
    if positions.shape[1] != info.axes:
        raise ValueError(f"the decoder's positions have {info.axes} axes, the layout's {positions.shape[1]}")
    return positions[None]
