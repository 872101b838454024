"""Samples that a decoder in training shows: it goes on with items of the validation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.base import AudioCodec, Codec, Tokens
from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.layouts import Layout
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import Proposer
from zoo.recipes.logging import show_clip, show_pictures
from zoo.recipes.metrics import Score
from zoo.recipes.writing import given_of, grid_of
from zoo.registry import load_codec
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary


@dataclass(frozen=True)
class Preview:
    """What validation shows.

    Attributes:
        batches: Of so many batches the first item is continued.
        prompt: Share of the item that is given; layouts with a begin step and none of it start from nothing.
        steps: Most steps to add.
        temperature: Of the law.
        codec: Name of the codec that turns codes into sound or a picture; None: codes of a codec are not shown.
    """

    batches: int = 2
    prompt: float = 0.25
    steps: int = 128
    temperature: float = 0.8
    codec: str | None = None

    def sample(
        self,
        decoder: TokenModel,
        layout: Layout,
        batch: Mapping[str, Any],
        cond: Any,
        noise: Noise,
        proposer: Proposer | None = None,
        window: int = 5,
    ) -> dict[str, Tensor]:
        """Codes of the first item of a batch (`target`), and of its continuation (`sample`): `[codebook, *grid]`.

        -1 is no code. `given` is how many steps were given, `steps` how many came, in so many passes (`forwards`).
        """
        codes, lengths = batch["codes"][:1], batch["lengths"][:1]
        if lengths.ndim == 1:
            codes, lengths = codes[..., : int(lengths)], None
        shape, tokens = tuple(codes.shape[2:]), layout.pack(codes, None)
        given = given_of(tokens, self.prompt)
        result = decode(
            decoder, tokens[:, :given], min(self.steps, tokens.shape[1] - given),
            Law(temperature=self.temperature), noise, proposer, window=window, cond=cond,
            **grid_of(decoder, layout, {"codes": codes}),
        )  # fmt: skip
        sampled = torch.cat([tokens[:, :given], result.codes], 1)
        counts = {"given": given, "steps": int(result.lengths), "forwards": len(result.trace.target_forwards)}
        return {"target": codes[0], "sample": layout.unpack(sampled, shape)[0]} | {
            name: torch.tensor(count) for name, count in counts.items()
        }


class Pace:
    """How many steps a pass gave in what `Preview.sample` made, with something that drafts."""

    def __init__(self) -> None:
        self.steps, self.forwards = 0, 0

    def count(self, media: Mapping[str, Tensor]) -> None:
        """Count a sample."""
        self.steps += int(media["steps"])
        self.forwards += int(media["forwards"])

    def take(self) -> dict[str, Score]:
        """The mean since the last time, if there was a sample."""
        scores = {"steps/forward": Score(self.steps / self.forwards)} if self.forwards else {}
        self.steps, self.forwards = 0, 0
        return scores


def show_sample(
    board: Any, name: str, media: Mapping[str, Tensor], facts: TokenFacts, preview: Preview, step: int, first: bool
) -> None:
    """Give TensorBoard what `Preview.sample` made: text, or by the preview's codec sound or a picture."""
    kinds = ("target", "sample") if first else ("sample",)
    for kind in kinds:
        codes = media[kind].cpu()
        if facts.vocabulary is not None:
            text = as_text(codes[0], int(media["given"]), facts.vocabulary)
            board.add_text(f"{name}/{kind}", "\n".join(f"    {line}" for line in text.splitlines()), step)  # verbatim
        elif preview.codec is not None:
            codec = _codec(preview.codec)
            if facts.weights and facts.weights != codec.weights:
                raise UserError(f"the codes are of {facts.codec}, and not of the preview's {preview.codec}")
            show_media(board, f"{name}/{kind}", codes, codec, step)


def as_text(codes: Int[Tensor, "n"], given: int, vocabulary: Vocabulary) -> str:
    """Tokens as text, with a mark behind those that were given."""
    parts = (codes[:given], codes[given:])
    return " ⏵ ".join(vocabulary.decode(part[part >= 0].tolist()).decode(errors="replace") for part in parts)


def show_media(board: Any, name: str, codes: Tensor, codec: Codec, step: int) -> None:
    """Give TensorBoard what codes stand for; frames behind the last that is complete are left out."""
    if isinstance(codec, AudioCodec):
        frames = int((codes >= 0).all(0).long().cumprod(0).sum())
        if not frames:
            return
        lengths = torch.tensor([frames * codec.info.hop])
        media = codec.decode(Tokens(codes[None, :, :frames], lengths, codec=codec.name, weights=codec.weights))
        show_clip(board, name, media, codec.info.sample_rate, step)
    else:
        tile = codec.info.tile  # whose codes have no places in the picture
        lengths = torch.tensor([[tile] * 2 if tile else [side * codec.info.hop for side in codes.shape[1:]]])
        whole = codes.clamp(min=0)[None]  # cells that were not sampled look like code 0
        media = codec.decode(Tokens(whole, lengths, codec=codec.name, weights=codec.weights))
        show_pictures(board, name, {"sample": media}, step)


@lru_cache(maxsize=1)
def _codec(name: str) -> Codec:
    return load_codec(name)
