"""How good what a benchmark of sampling drew is: pictures by a classifier, speech by a recogniser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from zoo import checkpoints, judges, registry
from zoo.bench_requests import Job
from zoo.generation_codes import Codes
from zoo.generation_media import as_media, as_tokens
from zoo.picture_classes import Labelled, accuracy
from zoo.picture_classes import load as load_judge

Judge = Callable[[Sequence[Codes], Sequence[Job]], dict[str, float]]
"""From the codes of each request to what is measured of them, by name."""


def judge_of(medium: str, name: str, decoder: Any) -> Judge | None:
    """Who judges a medium, if there is anybody.

    Args:
        name: The decoder that the classifier of its pictures is bundled with.
    """
    if medium == "image":
        folder = (Path(name) if Path(name).is_dir() else checkpoints.folder(name)) / "judge"
        return _seen(folder, decoder) if folder.is_dir() else None
    return _heard(decoder) if medium == "audio" and judges.listens() else None


def _seen(folder: Path, decoder: Any) -> Judge:
    """`accuracy`: the share of pictures that show what was asked for."""
    classifier, codec, facts = load_judge(folder)[0], registry.load_codec(decoder.tokens.codec, "cpu"), decoder.tokens

    def shown(codes: Codes) -> UInt8[Tensor, "3 H W"]:
        height, width = (side * codec.info.hop for side in codes.shape[1:])
        picture = as_media(as_tokens(codes, codec, facts, (height, width)), codec)
        return (picture * 255).round().clamp(0, 255).to(torch.uint8)

    def judge(drawn: Sequence[Codes], jobs: Sequence[Job]) -> dict[str, float]:
        labels = torch.tensor([job.label for job in jobs])
        return {"accuracy": accuracy(classifier, Labelled(torch.stack([shown(each) for each in drawn]), labels))}

    return judge


def _heard(decoder: Any) -> Judge:
    """`word_errors`: of all words that were to be said, the share that PocketSphinx misunderstood."""
    codec, facts = registry.load_codec(decoder.tokens.codec, "cpu"), decoder.tokens
    known: dict[tuple[str, bytes], tuple[int, int]] = {}  # many methods draw the same codes

    def understood(codes: Codes, text: str) -> tuple[int, int]:
        key = text, codes.numpy().tobytes()
        if key not in known:
            heard = as_media(as_tokens(codes, codec, facts), codec)[0].numpy()
            known[key] = judges.errors_in_words(text, heard, codec.info.sample_rate)
        return known[key]

    def judge(drawn: Sequence[Codes], jobs: Sequence[Job]) -> dict[str, float]:
        counts = [understood(codes, job.text) for codes, job in zip(drawn, jobs, strict=True)]
        return {"word_errors": sum(errors for errors, _ in counts) / sum(words for _, words in counts)}

    return judge
