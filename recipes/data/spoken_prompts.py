"""What Allison says in Asterisk's English prompts: the transcripts that Debian packages, cleaned, beside the clips."""

import dataclasses
import gzip
import re
from pathlib import Path

from zoo.recipes.data.debian_clips import Clip
from zoo.recipes.data.debian_packages import debian_folder
from zoo.recipes.data.debian_prompts import speaker_clips
from zoo.recipes.data.spoken_sentences import ALPHABET, normalised, words

TRANSCRIPTS = ("asterisk-core-sounds-en", "/usr/share/doc/asterisk-core-sounds-en")
SPEAKER, VOICE = "en-allison", "allison"
LONGEST = 250  # characters, some sixteen seconds; few prompts are longer
SPLITS = {"train": "train", "valid": "valid", "test-seen": "test"}

_DIGITS = "zero one two three four five six seven eight nine".split()
_SIGNS = {"*": "star", "#": "pound", "&": "and", ";": ",", ":": ",", "/": " ", '"': "", "\u2019": "'"}


def spoken_prompts(cache: Path) -> list[tuple[Clip, str]]:
    """The prompts that are speech of fit length, each with its text; without those that are held out from all."""
    said = read_transcripts(debian_folder(*TRANSCRIPTS, cache) / "core-sounds-en.txt.gz")
    return [
        (dataclasses.replace(clip, split=SPLITS[clip.split], speaker=VOICE), said[clip.name])
        for clip in speaker_clips(SPEAKER, cache)
        if clip.split in SPLITS and len(said.get(clip.name, "")) in range(1, LONGEST + 1)
    ]


def read_transcripts(path: Path) -> dict[str, str]:
    """Texts by name, of a gzipped file of lines `name: text`; without those of sounds that are no speech."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace").splitlines()
    stated = [line.partition(":") for line in lines if ":" in line and not line.startswith(";")]
    cleaned = {name.strip(): spoken_form(text) for name, _, text in stated}
    return {name: text for name, text in cleaned.items() if text}


def spoken_form(text: str) -> str:
    """A transcript in the form of `normalised`: without notes in brackets, digits as words; "" if it's no speech."""
    text = re.sub(r"\[[^]]*\]|<[^>]*>|\([^)]*\)", " ", text)
    for sign, said in _SIGNS.items():
        text = text.replace(sign, said)
    text = re.sub(r"(?<!\d)\d(?!\d)", lambda digit: _DIGITS[int(digit[0])], text)
    text = normalised(text)
    # What can't be said letter by letter, such as numbers of two digits, is left out rather than guessed.
    return text if words(text) and ALPHABET.issuperset(text) else ""
