"""What benchmarks of sampling ask of a decoder: sources to go on with, sentences to say, pictures of each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo import registry
from zoo.decoders.conditioning import Conditions
from zoo.generation_codes import Codes
from zoo.generation_media import pieces_for
from zoo.generation_request import request_for

PROMPT = 1200  # characters of a source file that a text goes on with
SENTENCES = (
    "the morning train was late again, so we walked along the river instead.",
    "please leave your name and number after the tone.",
    "nobody knew how the old clock in the tower kept its time.",
    "she opened the window and heard the sea for the first time in years.",
    "there are seven new messages, and one of them is important.",
    "if you want to hear this again, press four.",
)


@dataclass(frozen=True)
class Job:
    """One row to draw.

    Attributes:
        shape: Of its codes, prompt included; the largest that may come out.
        text, label: What is asked for; -1 is no class.
    """

    shape: tuple[int, ...]
    cond: Conditions | None = None
    prompt: Codes | None = None
    stop: int | None = None
    text: str = ""
    label: int = -1


def jobs_of(medium: str, decoder: Any, items: int, steps: int) -> list[Job]:
    """Requests of that medium, the same for all decoders that say the same.

    Args:
        steps: Of a text; pictures and speech are whole.
    """
    if medium == "text":
        return _texts(decoder, items, steps)
    return _pictures(decoder, items) if medium == "image" else _sentences(decoder, items)


def _texts(decoder: Any, items: int, steps: int) -> list[Job]:
    """Sources of this package to go on with."""
    vocabulary = decoder.tokens.vocabulary
    files = sorted(Path(zoo.__file__).parent.glob("*.py"), key=lambda path: -path.stat().st_size)[:items]
    most = decoder.info.context - steps
    given = [vocabulary.encode(path.read_text()[:PROMPT])[:most] for path in files]
    return [Job((len(ids) + steps,), None, torch.tensor(ids)[None], vocabulary.end) for ids in given]


def _pictures(decoder: Any, items: int) -> list[Job]:
    facts = decoder.tokens
    labels = [number % max(1, len(facts.labels)) for number in range(items)]
    return [Job(facts.grid, Conditions(torch.tensor([label])), label=label) for label in labels]


def _sentences(decoder: Any, items: int) -> list[Job]:
    """By each voice in turn, as long as `zoo generate` lets them be."""
    codec, voices, jobs = registry.load_codec(decoder.tokens.codec, "cpu"), len(decoder.tokens.labels), []
    for number in range(items):
        text, label = SENTENCES[number % len(SENTENCES)], number % max(1, voices)
        asked = request_for(decoder, "audio", None, None, text, label if voices else None, None, None, None, 1, None)
        (piece,) = pieces_for(decoder, asked, codec, None)
        cond = asked.conditions(decoder, 1, [piece.text], [piece.durations])
        jobs.append(Job((piece.frames,), cond, text=text, label=label))
    return jobs
