"""Builds English speech with its text for text-to-speech decoders: `python -m zoo.recipes.data.spoken_text`.

    python -m zoo.recipes.data.spoken_text --out data/spoken
    zoo tokenize data/spoken/train --out data/spoken-tokens/train --texts data/spoken/train/texts.tsv ...
    python -m zoo.recipes.align data/spoken-tokens/train data/spoken-tokens/valid

writes `OUT/{train,valid,test}/VOICE/NAME.flac`, mono at 16 kHz, `OUT/SPLIT/texts.tsv` (lines of path, tab, text) and
`OUT/corpus.json` (counts, seconds, credits and licences). Synthetic voices read sentences that are different for each;
one voice is recorded. No sentence of the tests, and none of the validation, is spoken in training by any voice. Run
again, it continues where it was stopped. It needs flite, espeak-ng and ffmpeg, and takes the texts and recordings that
are not installed from the package archive with apt.
"""

import argparse
import functools
import json
import os
import sys
from pathlib import Path

import numpy as np

from zoo.codecs.errors import UserError
from zoo.recipes.data.debian_clips import RATE, Clip, check_ffmpeg, describe, write_clips
from zoo.recipes.data.debian_prompts import PROMPT_CREDITS
from zoo.recipes.data.debian_synthetic import VOICES, Voice, check_installed, read_aloud
from zoo.recipes.data.spoken_prompts import VOICE, spoken_prompts
from zoo.recipes.data.spoken_sentences import dealt, name_of, split_of_sentence, without_leaks
from zoo.recipes.data.spoken_sources import TEXT_CREDITS, gathered

_SLT = Voice("flite", "slt", "en", "flite", "BSD-like", VOICES["rms"].credit)
_ESPEAK = Voice("espeak-ng", "en-us+f5", "en", "espeak-ng", "GPL-3+", VOICES["espeak-en"].credit)

# The voices that a recogniser understands best, and the hours that each reads. Two women and two men.
READERS: dict[str, tuple[Voice, float]] = {
    "slt": (_SLT, 2.3),
    "rms": (VOICES["rms"], 2.3),
    "awb": (VOICES["awb"], 2.1),
    "espeak": (_ESPEAK, 2.1),
}
CHARACTERS_PER_HOUR = 16 * 3600  # of text, at the pace of these voices

SPOKEN_CREDITS = [
    {"speakers": name, "credit": voice.credit, "license": voice.license, "package": voice.package}
    for name, (voice, _) in READERS.items()
] + [entry | {"speakers": VOICE} for entry in PROMPT_CREDITS if entry["speakers"] == "e?-allison"]

FLOOR_DB, FRAME = -40.0, RATE // 100  # what is fainter than this against the loudest frame is silence at an end
MARGIN = 6 * FRAME


def build(out: Path, cache: Path, share: float, processes: int) -> dict:
    """Write the clips and texts, this share of all, below `out`, then `out/corpus.json`; its contents."""
    check_ffmpeg()
    check_installed([voice for voice, _ in READERS.values()], "no part of this corpus can be built without it")
    if not 0 < share <= 1:
        raise UserError(f"a share of {share} cannot be; give one above 0 and up to 1")
    spoken = utterances(gathered(cache), spoken_prompts(cache), share)
    check_foreign(out, spoken)
    refused = write_clips(out, [clip for clip, _ in spoken], "spoken", processes)
    write_texts(out, spoken)
    corpus = describe(out, refused, SPOKEN_CREDITS) | {"texts": TEXT_CREDITS}
    (out / "corpus.json").write_text(json.dumps(corpus, indent=1, ensure_ascii=False) + "\n")
    return corpus


def utterances(sentences: list[str], prompts: list[tuple[Clip, str]], share: float) -> list[tuple[Clip, str]]:
    """What each voice says: clips and their texts, none of the held-out texts in training."""
    shares = dealt(sentences, {name: hours * CHARACTERS_PER_HOUR for name, (_, hours) in READERS.items()})
    spoken = list(prompts)
    for name, own in shares.items():
        speak = functools.partial(_trimmed_speech, READERS[name][0])
        spoken += [
            (Clip(split_of_sentence(text), name, name_of(text), functools.partial(speak, text)), text) for text in own
        ]
    kept = [spoken[k] for k in without_leaks([(clip.split, text) for clip, text in spoken])]
    # A part is the beginning of each voice's list, so that a small corpus lies within the whole one.
    voices = {name: [entry for entry in kept if entry[0].speaker == name] for name in (*READERS, VOICE)}
    return [entry for own in voices.values() for entry in own[: round(share * len(own))]]


def check_foreign(out: Path, spoken: list[tuple[Clip, str]]) -> None:
    """Raise UserError where clips lie below `out` that are not of this corpus: they would be tokenized without text."""
    own = {out / clip.split / clip.speaker / f"{clip.name}.flac" for clip, _ in spoken}
    foreign = sorted(set(out.rglob("*.flac")) - own)
    if foreign:
        raise UserError(
            f"{out}: holds {len(foreign)} clips of another corpus, of another share or other texts, such as"
            f" {foreign[0].relative_to(out)}; name a new folder, or delete them"
        )


def write_texts(out: Path, spoken: list[tuple[Clip, str]]) -> None:
    """Write `texts.tsv` of each split: the texts of those clips that were written."""
    lines: dict[str, list[str]] = {}
    for clip, text in spoken:
        path = f"{clip.speaker}/{clip.name}.flac"
        if (out / clip.split / path).exists():
            lines.setdefault(clip.split, []).append(f"{path}\t{text}\n")
    for split, own in lines.items():
        (out / split / "texts.tsv").write_text("".join(sorted(own)))


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Samples int16 [time] with 60 ms of the silence at either end, or all of it where there is less."""
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = (frames**2).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0) * 10 ** (FLOOR_DB / 10))
    if not loud.size:
        return samples
    return samples[max(0, loud[0] * FRAME - MARGIN) : (loud[-1] + 1) * FRAME + MARGIN]


def _trimmed_speech(voice: Voice, text: str) -> np.ndarray:
    return trimmed(read_aloud(voice, text))


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/spoken"), help="folder of the corpus")
    parser.add_argument("--cache", type=Path, default=Path(".cache/debian"), help="folder for downloaded packages")
    parser.add_argument("--share", type=float, default=1.0, help="how much of it, such as .1 for a first trial")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="synthesizers that run at once")
    options = parser.parse_args(arguments)
    try:
        corpus = build(options.out, options.cache, options.share, options.processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for split, total in corpus["total"].items():
        print(f"{split:>6}: {total['clips']:5} clips, {total['seconds'] / 60:6.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
