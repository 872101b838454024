"""Telephone prompts of four speakers in five languages, from Debian's asterisk-core-sounds, and their splits."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from zoo.recipes.data.debian_clips import RATE, Clip, run_program
from zoo.recipes.data.debian_packages import debian_folder

UNSEEN_SPEAKER = "it-carlo"
SHORTEST_HELD_OUT_SECONDS = 1.5  # PESQ and STOI need about this much speech

# Speaker folder here -> (package, folder of the package). Allison recorded English and Spanish.
PROMPT_PACKAGES = {
    "en-allison": ("asterisk-core-sounds-en-g722", "/usr/share/asterisk/sounds/en_US_f_Allison"),
    "es-allison": ("asterisk-core-sounds-es-g722", "/usr/share/asterisk/sounds/es_MX_f_Allison"),
    "fr-june": ("asterisk-core-sounds-fr-g722", "/usr/share/asterisk/sounds/fr_CA_f_June"),
    "ru-ivrvoice": ("asterisk-core-sounds-ru-g722", "/usr/share/asterisk/sounds/ru_RU_f_IvrvoiceRU"),
    UNSEEN_SPEAKER: ("asterisk-core-sounds-it-g722", "/usr/share/asterisk/sounds/it_IT_m_Carlo"),
}

NOT_SPEECH_FOLDERS = {"silence"}
NOT_SPEECH_NAMES = {"ascending-2tone", "descending-2tone", "beep", "beeperr", "tt-monkeys"}

# Credits as Debian's copyright files give them; "speakers" is a pattern of speaker folders.
PROMPT_CREDITS = [
    {
        "speakers": "e?-allison",
        "credit": "Recorded by Allison Smith (theivrvoice.com) for Asterisk; funded by Digium, Inc.",
        "license": "CC-BY-SA-3.0",
        "package": "asterisk-core-sounds-en-g722, asterisk-core-sounds-es-g722",
    },
    {
        "speakers": "fr-june",
        "credit": "Recorded by June Wallack (junewallack.com); funded by Digium, Unlimitel and BGM Informatique",
        "license": "CC-BY-SA-3.0",
        "package": "asterisk-core-sounds-fr-g722",
    },
    {
        "speakers": "ru-ivrvoice",
        "credit": "Provided by Maxim Topal (ivrvoice.ru)",
        "license": "CC-BY-3.0",
        "package": "asterisk-core-sounds-ru-g722",
    },
    {
        "speakers": "it-carlo",
        "credit": "Recorded by Carlo Flora (carloflora.com, segreterietelefoniche.it), translated by Silvia Petrin",
        "license": "CC-BY-3.0",
        "package": "asterisk-core-sounds-it-g722",
    },
]

_BYTES_PER_SECOND = 8000  # G.722 at 64 kbit/s


def prompt_clips(cache: Path) -> list[Clip]:
    """Every spoken prompt of every speaker, each with the split that `split_of` gives it."""
    return [clip for speaker in PROMPT_PACKAGES for clip in speaker_clips(speaker, cache)]


def speaker_clips(speaker: str, cache: Path) -> list[Clip]:
    """Every spoken prompt of one speaker."""
    clips = []
    sounds = debian_folder(*PROMPT_PACKAGES[speaker], cache)
    for path in sorted(sounds.rglob("*.g722")):
        name = path.relative_to(sounds).with_suffix("")
        if name.parts[0] in NOT_SPEECH_FOLDERS or name.name in NOT_SPEECH_NAMES:
            continue
        split = split_of(speaker, name.as_posix(), path.stat().st_size / _BYTES_PER_SECOND)
        clips.append(Clip(split, speaker, name.as_posix(), functools.partial(_read_g722, path)))
    return clips


def split_of(speaker: str, name: str, seconds: float) -> str:
    """The split of a prompt, a fixed function of its path (`"digits/7"`) and length.

    All of the unseen speaker is `test-unseen`. A tenth of every other speaker's prompts is held out: those whose
    SHA-256 of `speaker/name`, as an integer, leaves the remainder 0 (`valid`) or 1 (`test-seen`) modulo 20. Held-out
    prompts under 1.5 s go to `held-out-short`: no metric is computed on them and no training sees them.
    """
    if speaker == UNSEEN_SPEAKER:
        return "test-unseen"
    remainder = int(hashlib.sha256(f"{speaker}/{name}".encode()).hexdigest(), 16) % 20
    if remainder > 1:
        return "train"
    if seconds < SHORTEST_HELD_OUT_SECONDS:
        return "held-out-short"
    return ("valid", "test-seen")[remainder]


def _read_g722(path: Path) -> np.ndarray:
    decode = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    return np.frombuffer(run_program(*decode), np.int16)
