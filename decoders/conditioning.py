"""What decoders are conditioned on: class labels, text, reference tokens; by prefix, cross-attention or norms.

A condition that is left out adds nothing: a row whose labels, text and reference are all -1 is a row of
`init_state(cond=None)`. That is what classifier-free guidance needs (Ho and Salimans, arXiv 2207.12598): training
drops conditions (`Conditions.dropped`), sampling runs rows with and without (`Conditions.stack`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.durations import DurationPredictor
from zoo.decoders.embedding import CodeEmbedding
from zoo.decoders.prefix import Aligned, PrefixConditioning
from zoo.decoders.state import State
from zoo.decoders.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from zoo.decoders.sampling.noise import Noise

BYTES = 256
LOUDNESS = 0.05  # of what is told beside tokens, whose embeddings begin small; else it drowns them while they grow
KINDS = ("labels", "text", "reference")


class Tokenizer(Protocol):
    """What `text_ids` asks of a tokenizer; `tokenizers.Tokenizer` is one, and so are the vocabularies of `zoo`."""

    def encode(self, sequence: str) -> Any:
        """Ids, or something that has `ids`."""


def text_ids(texts: Sequence[str], tokenizer: Tokenizer | None = None) -> Int[Tensor, "R M"]:
    """Ids of texts: UTF-8 bytes, or a tokenizer's; -1 behind the end of each, and everywhere in an empty one."""
    ids = [_encoded(text, tokenizer) if text else [] for text in texts]
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in ids], batch_first=True, padding_value=-1)


def _encoded(text: str, tokenizer: Tokenizer | None) -> list[int]:
    found = text.encode() if tokenizer is None else tokenizer.encode(text)
    return list(getattr(found, "ids", found))


@dataclass(frozen=True)
class Conditions:
    """Conditions of a batch of rows. A kind that is None is left out in all rows, -1 leaves it out in one.

    Attributes:
        labels: int64 `[R]`, class labels.
        text: int64 `[R, M]`, ids as of `text_ids`; -1 behind the end.
        reference: int64 `[R, T, Q]`, tokens of an example, such as speech of the speaker wanted; -1 behind the end, and
            where a step has fewer codes.
        durations: float `[R, M]`, how many steps each id of the text takes; 0 where there is none. None: predicted.
    """

    labels: Int[Tensor, "R"] | None = None
    text: Int[Tensor, "R M"] | None = None
    reference: Int[Tensor, "R T Q"] | None = None
    durations: Float[Tensor, "R M"] | None = None

    @property
    def given(self) -> dict[str, Tensor]:
        """The kinds that are not None."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) is not None}

    def rows(self, which: slice) -> Conditions:
        """Some of the rows."""
        values = self.given if self.durations is None else self.given | {"durations": self.durations}
        return Conditions(**{name: value[which] for name, value in values.items()})

    def dropped(self, share: float, noise: Noise, step: int = 0, kinds: Collection[str] = KINDS) -> Conditions:
        """For training: in that share of the rows, the named kinds are left out, all together.

        Whether a row is hit depends on the noise's seed and row id, and on `step`, alone. To drop kinds on their own,
        call it once for each with `noise.derive(...)`.
        """
        ids = next(iter(self.given.values()), torch.empty(0))
        hit = noise.uniform(torch.full((len(ids), 1), step, device=ids.device), 1)[:, 0, 0] < share
        left_out = {
            kind: ids.masked_fill(hit.view(-1, *[1] * (ids.ndim - 1)), -1)
            for kind, ids in self.given.items()
            if kind in kinds
        }
        return replace(self, **left_out)

    @staticmethod
    def stack(streams: Sequence[Conditions | None]) -> Conditions:
        """Rows of all streams, one stream behind the other; those of None are left out.

        Raises:
            ValueError: No stream has conditions, or streams differ in rows.
        """
        given = [stream.given for stream in streams if stream is not None]
        rows = {len(ids) for kinds in given for ids in kinds.values()}
        if len(rows) != 1:
            raise ValueError(f"streams of {sorted(rows)} rows; expected the same in all, one of them with conditions")
        (count,) = rows
        stacked = {}
        for kind in dict.fromkeys(kind for kinds in given for kind in kinds):
            parts = [getattr(stream, kind, None) for stream in streams]
            shape = next(part for part in parts if part is not None).shape
            longest = max(part.shape[1] if part is not None and part.ndim > 1 else 0 for part in parts)
            filled = [_lengthened(part, (count, *shape[1:]), longest) for part in parts]
            device = next(part for part in parts if part is not None).device
            stacked[kind] = torch.cat([part.to(device) for part in filled])
        times = [getattr(stream, "durations", None) for stream in streams]
        if any(each is not None for each in times):  # where a stream has none, there is no text
            ids = stacked["text"]
            none = torch.zeros(count, 0, device=ids.device)
            rows = [
                pad(none if each is None else each, (0, ids.shape[1] - (0 if each is None else each.shape[1])))
                for each in times
            ]
            stacked["durations"] = torch.cat(rows)
        return Conditions(**stacked)


@dataclass(frozen=True)
class ConditionConfig:
    """What can be given, and how it comes to the decoder.

    Attributes:
        width: Features of what the decoder gets: its own width for a prefix, its `cross`, its `adaptive`.
        classes: Labels are below this; 0: none.
        text: Size of the text's vocabulary, `BYTES` or a tokenizer's; 0: none.
        reference: Tokens of each codebook of a reference; (): none.
        way: Into a prefix in front of the tokens, or to be attended to by all layers.
        pooled: Kinds whose mean goes into the adaptive norms instead.
        encoder: Reads a row's kinds, one behind the other, before the decoder does; not causal. Text and references for
            cross-attention or norms need it, as bare ids have no order there; in a prefix, rotary positions of one axis
            give them one.
        timed: Ids of the text stand, in a prefix, where they are heard, as `Conditions.durations` says or as is
            predicted. There they are added to the tokens, too, so that nothing has to be found before text is of use.
    """

    width: int
    classes: int = 0
    text: int = 0
    reference: tuple[int, ...] = ()
    way: Literal["prefix", "cross"] = "cross"
    pooled: tuple[str, ...] = ()
    encoder: TransformerConfig | None = None
    timed: bool = False

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.pooled) <= set(self.kinds):
            raise ValueError(f"conditions {self.kinds}, pooled {self.pooled}: give sizes of those that there are")
        if self.encoder is not None and (self.encoder.causal or self.encoder.width != self.width):
            raise ValueError(f"the encoder is of width {self.encoder.width} or causal; take {self.width}, not causal")
        ordered = set(self.kinds) - {"labels"} - (set() if self.way == "cross" else set(self.kinds) - set(self.pooled))
        if self.encoder is None and ordered:
            raise ValueError(f"{', '.join(sorted(ordered))} would lose the order of its tokens; give an encoder")
        if self.timed and (not self.text or self.way != "prefix" or "text" in self.pooled):
            raise ValueError("durations are those of a text in a prefix; give text, and way='prefix'")

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind, size in zip(KINDS, (self.classes, self.text, self.reference), strict=True) if size)


class ConditionEncoder(nn.Module):
    """Conditions into what a transformer takes."""

    def __init__(self, config: ConditionConfig):
        super().__init__()
        self.config = config
        sizes = {"labels": (config.classes,), "text": (config.text,), "reference": config.reference}
        self.tables = nn.ModuleDict({kind: CodeEmbedding(sizes[kind], 0, config.width) for kind in config.kinds})
        self.encoder = Transformer(config.encoder) if config.encoder is not None else None
        self.nothing = nn.Parameter(torch.randn(config.width) * 0.02) if config.pooled else None
        self.beside = nn.Linear(config.width, config.width, bias=False) if config.timed else None
        self.timing = DurationPredictor(config.text, config.classes) if config.timed else None

    def forward(self, rows: int, cond: Conditions | None = None) -> PrefixConditioning:
        """
        Raises:
            ValueError: A kind that the decoder doesn't take, another number of rows, ids outside the vocabulary.
        """
        cond = cond or Conditions()
        parts = self._embedded(rows, cond)
        sequence, mask, order = self._read([part for kind, part in parts.items() if kind not in self.config.pooled])
        vector = None
        if self.nothing is not None:
            vector = self._pooled(rows, [part for kind, part in parts.items() if kind in self.config.pooled])
        if sequence is None or self.config.way == "cross":
            return PrefixConditioning(sequence, mask, vector)
        if self.timing is None or cond.text is None:
            return PrefixConditioning(None, None, vector, sequence, mask.sum(1))
        durations = self.durations(cond)
        places = self._places(parts, durations).gather(1, order)
        told = self._told(sequence, mask & (places >= 0))
        return PrefixConditioning(None, None, vector, sequence, mask.sum(1), places, Aligned.lasting(told, durations))

    def durations(self, cond: Conditions) -> Float[Tensor, "R M"]:
        """Steps that each id of the text takes, given or predicted, without gradient; 0 where there is none.

        Raises:
            ValueError: Durations that are not one above 0 for each id.
        """
        there = cond.text >= 0
        if cond.durations is None:
            with torch.no_grad():
                return self.timing(cond.text, cond.labels)
        given = cond.durations.to(cond.text.device)
        if given.shape != cond.text.shape or not (given[there] > 0).all():
            raise ValueError(
                f"durations of shape {list(given.shape)} for a text of shape {list(there.shape)}; give one above 0 for"
                " each id"
            )
        return given.float() * there

    def _embedded(self, rows: int, cond: Conditions) -> dict[str, tuple[Tensor, Tensor]]:
        """Vectors of each kind that is given, and which of them are there."""
        parts = {}
        for kind, given in cond.given.items():
            if kind not in self.tables:
                raise ValueError(f"this decoder takes {', '.join(self.config.kinds)}, and was given {kind}")
            table = self.tables[kind]
            ids = given[:, None] if kind == "labels" else given
            ids = ids if kind == "reference" else ids[..., None]
            sizes = self.config.reference if kind == "reference" else (table.table.num_embeddings,)
            if ids.ndim != 3 or ids.shape[0] != rows or ids.shape[2] != len(sizes):
                raise ValueError(f"{kind} of shape {list(given.shape)} for {rows} rows and {len(sizes)} codebooks")
            if ((ids < -1) | (ids >= torch.tensor(sizes, device=ids.device))).any():
                raise ValueError(f"{kind} holds ids up to {int(ids.max())}; expected -1 for none, or below {sizes}")
            vectors = table.table(ids.clamp(min=0) + table.first) * (ids >= 0)[..., None]  # codes may be absent
            parts[kind] = vectors.sum(2), ids[..., 0] >= 0
        return parts

    def _places(self, parts: dict[str, tuple[Tensor, Tensor]], durations: Float[Tensor, "R M"]) -> Float[Tensor, "R M"]:
        """Where the vectors of each kind stand: the text in the middle of its times, all others before it, in order."""
        places = []
        for kind, (x, there) in parts.items():
            if kind == "text":
                places.append(durations.cumsum(1) - durations / 2)
            elif kind not in self.config.pooled:
                places.append(torch.arange(x.shape[1], device=x.device) - there.sum(1, keepdim=True))
        return torch.cat(places, 1)

    def _told(self, sequence: Float[Tensor, "R M C"], text: Bool[Tensor, "R M"]) -> Float[Tensor, "R M C"]:
        """What is told of the text beside the tokens, moved to the front of each row."""
        order = (~text).int().argsort(dim=1, stable=True)
        vectors = LOUDNESS * self.beside(sequence).masked_fill(~text[..., None], 0)
        return vectors.gather(1, order[..., None].expand(-1, -1, vectors.shape[2]))

    def _read(
        self, parts: list[tuple[Float[Tensor, "R M C"], Bool[Tensor, "R M"]]]
    ) -> tuple[Float[Tensor, "R M C"], Bool[Tensor, "R M"], Int[Tensor, "R M"]] | tuple[None, None, None]:
        """All that is there of each row moved together to the front, so that it doesn't depend on other rows.

        Also which of it is there, and from where it came.
        """
        if not parts:
            return None, None, None
        x, mask = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
        order = (~mask).int().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max()) if mask.numel() else 0]
        if not order.shape[1]:
            return None, None, None
        x, mask = x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), mask.gather(1, order)
        if self.encoder is not None:
            numbers = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
            x, _ = self.encoder(x, numbers, None, mask[:, None].expand(-1, x.shape[1], -1))
        return x, mask, order

    def _pooled(self, rows: int, parts: list[tuple[Tensor, Tensor]]) -> Float[Tensor, "R C"]:
        x, mask, _ = self._read(parts)
        if x is None:
            return self.nothing.expand(rows, -1)
        count = mask.sum(1, keepdim=True)
        mean = (x * mask[..., None]).sum(1) / count.clamp(min=1)
        return torch.where(count > 0, mean, self.nothing)


class ConditionedDecoder(TokenModel):
    """Any decoder with the encoder of its conditions; `init_state` takes `Conditions`.

    Args:
        config: Of the conditions.
        decoder: A decoder whose `init_state` takes what a `PrefixTransformer` takes.
    """

    def __init__(self, config: ConditionConfig, decoder: TokenModel):
        super().__init__()
        self.encoder = ConditionEncoder(config)
        self.decoder = decoder
        count = sum(parameter.numel() for parameter in self.parameters())
        kinds = (*config.kinds, "durations") if config.timed else config.kinds
        self._info = replace(decoder.info, conditioning=kinds, parameters=count)

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Conditions | None = None) -> State:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not max_steps):
            return self.decoder.init_state(rows, max_steps, self.encoder(rows, cond))

    def durations(self, cond: Conditions) -> Float[Tensor, "R M"]:
        """Steps that each id of the text of a timed decoder takes; see `ConditionEncoder.durations`."""
        return self.encoder.durations(cond)

    def duration_loss(self, cond: Conditions) -> Float[Tensor, ""]:
        """What a timed decoder's predictor of durations is to lower."""
        return self.encoder.timing.loss(cond.text, cond.labels, cond.durations)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        state = self.init_state(len(tokens), 0) if state is None else state
        return self.decoder.run(tokens, positions, state, block_mask)

    def run_one(
        self, books: Int[Tensor, "R N"], tokens: Tensor, positions: Tensor, state: State | None, *rest: Any
    ) -> Output:
        state = self.init_state(len(tokens), 0) if state is None else state
        return self.decoder.run_one(books, tokens, positions, state, *rest)

    def depth(self, hidden: Float[Tensor, "R N D"], codes: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N Q V"]:
        return self.decoder.depth(hidden, codes)


def _lengthened(ids: Tensor | None, shape: tuple[int, ...], longest: int) -> Tensor:
    if ids is None:
        ids = torch.full(shape, -1)
    if ids.ndim == 1:
        return ids
    behind = (0, longest - ids.shape[1])
    return pad(ids, behind if ids.ndim == 2 else (0, 0, *behind), value=-1)
