"""How well decoders speak: understood, in the right voice, clean, and how fast: `python -m zoo.judge_speech NAME...`.

    python -m zoo.judge_speech conditioned.speech-16khz conditioned-masked.speech-16khz --data data/spoken/test -o F

Each decoder reads test sentences of `zoo.recipes.data.spoken_text` with the voice that read them there; who learned
from references is given another sentence of it. A recogniser writes down what it understands, a speaker encoder tells
the voices, DNSMOS rates the sound; all three know nothing of our training. The same is measured of the recordings and
of what the codec makes of them: no decoder of its tokens can be expected to do better.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console
from rich.progress import track

import zoo
from zoo import judges, registry
from zoo.codecs.audio.io import read_audio
from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel

RATE = 16000
SHORTEST = 20  # characters; of shorter sentences the recogniser has no context


@dataclass(frozen=True)
class Spoken:
    """A test sentence.

    Attributes:
        voice: Who read it.
        text: What was read.
        path: The recording.
    """

    voice: str
    text: str
    path: Path


@dataclass(frozen=True)
class Verdict:
    """What judges say of one system.

    Attributes:
        word_errors: Of all words that were to be said, share that was misunderstood, missed or added.
        voice: Mean cosine between a sentence's voice and the mean of its speaker's other recordings.
        right_voice: Share of sentences whose nearest speaker is the right one.
        dnsmos: Mean overall quality, 1 to 5.
        seconds: Of speech.
        took: Seconds that the decoder and the codec took.
        passes: Forward passes of the decoder.
    """

    word_errors: float
    voice: float
    right_voice: float
    dnsmos: float
    seconds: float
    took: float
    passes: int


Say = Callable[[Spoken], tuple[Float[ndarray, "time"], int]]


def sentences(folder: Path, voices: Sequence[str], count: int) -> list[Spoken]:
    """The first sentences of each voice, by name.

    Raises:
        UserError: No texts there, or none of such a voice.
    """
    try:
        lines = (folder / "texts.tsv").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder}: holds no texts ({error}); make it with zoo.recipes.data.spoken_text") from None
    spoken = [
        Spoken(path.partition("/")[0], text, folder / path) for path, _, text in (x.partition("\t") for x in lines)
    ]
    chosen = []
    for voice in voices:
        own = [each for each in spoken if each.voice == voice and len(each.text) >= SHORTEST]
        if not own:
            known = sorted({each.voice for each in spoken})
            raise UserError(f"{folder}: has no sentence of {voice}; choose among {', '.join(known)}")
        chosen += own[:count]
    return chosen


def judge(spoken: Sequence[Spoken], say: Say, known: dict[str, Float[ndarray, "sentence voice"]], what: str) -> Verdict:
    """Let a system say all sentences, and judge what is heard.

    Args:
        say: Gives the samples of a sentence at 16 kHz and the passes that it took.
        known: Voices of recordings of each speaker, those of `spoken` first and in their order.
    """
    errors = words = passes = right = 0
    likeness, quality, seconds, took = [], [], 0.0, 0.0
    place = dict.fromkeys(known, 0)
    for each in track(spoken, what, console=Console(stderr=True)):
        begin = time.perf_counter()
        heard, count = say(each)
        took += time.perf_counter() - begin
        wrong, size = judges.errors_in_words(each.text, heard, RATE)
        errors, words, passes, seconds = errors + wrong, words + size, passes + count, seconds + len(heard) / RATE
        own = judges.voice_of(heard, RATE)
        others = {
            name: np.delete(voices, place[name], 0) if name == each.voice else voices for name, voices in known.items()
        }
        cosines = {name: float(own @ unit(voices.mean(0))) for name, voices in others.items()}
        place[each.voice] += 1
        likeness.append(cosines[each.voice])
        right += max(cosines, key=lambda name: cosines[name]) == each.voice
        quality.append(judges.dnsmos(heard, heard, RATE).value)
    return Verdict(
        errors / words, float(np.mean(likeness)), right / len(spoken), float(np.nanmean(quality)), seconds, took, passes
    )


def unit(vector: Float[ndarray, "voice"]) -> Float[ndarray, "voice"]:
    """Of length 1."""
    return vector / np.linalg.norm(vector)


def recording(each: Spoken) -> Float[ndarray, "time"]:
    """Samples of the recording at 16 kHz."""
    return read_audio(each.path, RATE, mono=True)[0][0]


def systems(names: Sequence[str], settings: dict[str, Any], spoken: Sequence[Spoken]) -> Iterator[tuple[str, Say]]:
    """The recordings, what the codec makes of them, and the decoders, by name."""
    yield "recordings", lambda each: (recording(each), 0)
    models = {name: registry.load_decoder(name) for name in names}
    first: Any = next(iter(models.values()))
    codec: Any = registry.load_codec(first.tokens.codec)
    books = len(first.tokens.layout.sizes)

    def reconstructed(each: Spoken) -> tuple[Float[ndarray, "time"], int]:
        tokens = codec.encode(torch.from_numpy(recording(each))[None, None], codebooks=books)
        return codec.decode(tokens)[0, 0].numpy(), 0

    with torch.inference_mode():
        yield f"{codec.name}, {books} codebooks", reconstructed
    for name, model in models.items():

        def said(each: Spoken, model: Any = model) -> tuple[Float[ndarray, "time"], int]:
            number = spoken.index(each)
            found = zoo.generate(model, text=each.text, seed=number, **whose(model, each, spoken), **settings)
            return found.media[0][0].numpy(), found.facts()["passes"]

        yield name, said


def whose(model: TokenModel, each: Spoken, spoken: Sequence[Spoken]) -> dict[str, Any]:
    """The voice, for `zoo.generate`: by its name or, for decoders that learned from references, by another recording.

    Raises:
        UserError: There is no other.
    """
    if "reference" not in model.info.conditioning:
        return {"label": each.voice}
    own = [other for other in spoken if other.voice == each.voice]
    if len(own) < 2:
        raise UserError(f"{each.voice}: has one sentence, and the decoder needs another as its reference; ask for 2")
    return {"reference": own[(own.index(each) + 1) % len(own)].path}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="decoders of speech, all of the same codec")
    parser.add_argument("--data", type=Path, default=Path("data/spoken/test"), help="folder with texts.tsv")
    parser.add_argument("--voices", nargs="+", default=["slt", "rms", "awb"], help="speakers (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=12, help="of each (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--guidance", type=float, default=1.0, help="see zoo generate (default: %(default)s)")
    parser.add_argument("--passes", type=int, nargs="+", help="of masked decoders: see zoo generate")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("temperature", "top_p", "guidance", "passes")}
    try:
        spoken = sentences(options.data, options.voices, options.sentences)
        known = {
            voice: np.stack([judges.voice_of(recording(each), RATE) for each in spoken if each.voice == voice])
            for voice in options.voices
        }
        found = {
            name: asdict(judge(spoken, say, known, name)) for name, say in systems(options.names, settings, spoken)
        }
    except ImportError as error:
        known = "pip install 'media-token-zoo[voices]'" if error.name == "resemblyzer" else judges.INSTALL
        print(f"package {error.name} is missing: {known}", file=sys.stderr)
        return 2
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    result = {"sentences": len(spoken), "voices": options.voices, "settings": settings, "systems": found}
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
