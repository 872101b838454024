"""The demo's decoders: a text, a spoken sentence and a row of pictures, step by step and filled in where both ship."""

from __future__ import annotations

from pathlib import Path

import torch

import zoo
from zoo.codecs.image.io import write_image
from zoo.demo_report import Report
from zoo.generation_result import Generated

TEXT = "autoregressive.text"
SPEECH = ("conditioned.speech-16khz", "conditioned-masked.speech-16khz")
PICTURES = ("conditioned.shapes", "conditioned-masked.shapes")
WAYS = ("step by step", "filled in")
GUIDANCE = dict(zip((*SPEECH, *PICTURES), (2.0, 3.0, 1.0, 2.0), strict=True))  # what each is understood best with
PROMPT = "def read_lines(path):\n"
SENTENCE = "please leave your message after the tone."
SPEAKER = "slt"
CLASSES = ("star", "heart", "flower", "crescent", "arrow")
COLUMNS = ("decoder", "made", "tokens", "passes", "seconds", "tokens a second")


def run(folder: Path) -> Report:
    """Let each starter decoder make something; everything but the table is written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = zoo.generate(TEXT, folder / "generated.txt", prompt=PROMPT, steps=128, seed=1)
    rows = [row_of(TEXT, "text", [written])]
    places = [("read", f"{folder}/generated.txt")]
    notes = [f'The text goes on from "{PROMPT.strip()}".']
    for name, way in shipped(SPEECH):
        guidance = GUIDANCE[name]
        path = folder / f"spoken-{way.replace(' ', '-')}.wav"
        spoken = zoo.generate(name, path, text=SENTENCE, label=SPEAKER, temperature=0.5, guidance=guidance, seed=1)
        notes = [*notes[:1], f'The sentence is "{SENTENCE}", read by {SPEAKER}.']
        rows.append(row_of(name, f"{spoken.media[0].shape[1] / spoken.rate:.1f} s of speech, {way}", [spoken]))
        places.append(("listen to", str(path)))
    for name, way in shipped(PICTURES):
        path = folder / f"shapes-{way.replace(' ', '-')}.png"
        model = zoo.load(name)
        drawn = [zoo.generate(model, label=label, seed=1, guidance=GUIDANCE[name]) for label in CLASSES]
        write_image(path, torch.cat([each.media[0] for each in drawn], 2).numpy())
        rows.append(row_of(name, f"{len(drawn)} pictures, {way}", drawn))
        places.append(("look at", str(path)))
    return Report("Text, speech and pictures from trained decoders", COLUMNS, rows, notes, places)


def shipped(pair: tuple[str, str]) -> list[tuple[str, str]]:
    """Those of a pair of decoders that are bundled, and in which way each draws."""
    names = zoo.list_models()
    return [(name, way) for name, way in zip(pair, WAYS, strict=True) if name in names]


def row_of(name: str, made: str, results: list[Generated]) -> tuple[str, ...]:
    """Cells of the table."""
    facts = [each.facts() for each in results]
    tokens, passes, seconds = (sum(each[key] for each in facts) for key in ("tokens", "passes", "seconds"))
    return name, made, f"{tokens:,}", f"{passes:,}", f"{seconds:.2f}", f"{tokens / seconds:,.0f}"
