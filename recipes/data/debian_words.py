"""Letters, syllables and words spoken by volunteers in some thirty languages, from two of KDE's games for children."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import soundfile
import soxr

from zoo.recipes.data.debian_clips import RATE, Clip, NotSpeech, to_int16
from zoo.recipes.data.debian_packages import debian_folder

# The packages' folder of recordings -> the folder of a recording's language is the next one down.
WORD_FOLDERS = {
    "klettres": ("klettres-data", "/usr/share/klettres"),
    "ktuberling": ("ktuberling-data", "/usr/share/ktuberling/sounds"),
}

WORD_CREDITS = [
    {
        "speakers": "klettres-*",
        "credit": "KLettres by Anne-Marie Mahfouf and others (KDE); spoken by volunteers",
        "license": "GPL-2+",
        "package": "klettres-data",
    },
    {
        "speakers": "ktuberling-*",
        "credit": "KTuberling by Eric Bischoff, Albert Astals Cid and others (KDE); spoken by volunteers",
        "license": "GPL-2+",
        "package": "ktuberling-data",
    },
]

# Energy above 5 kHz, against all: a recording made at 8 kHz and resampled has -70 dB there, a dull vowel -45 dB.
LEAST_TREBLE_DB = -55.0
MOST_CLIPPED_SHARE = 0.01


def word_clips(cache: Path) -> list[Clip]:
    """Every recording once (some languages share files), all in `train`, a folder for each game and language."""
    clips, seen = [], set()
    for game, (package, folder) in WORD_FOLDERS.items():
        sounds = debian_folder(package, folder, cache)
        for path in sorted(sounds.rglob("*")):
            if path.suffix not in (".ogg", ".wav", ".opus"):
                continue
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            language, *rest = path.relative_to(sounds).with_suffix("").parts
            clips.append(Clip("train", f"{game}-{language}", "/".join(rest), functools.partial(_read_word, path)))
    return clips


def _read_word(path: Path) -> np.ndarray:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise NotSpeech(f"unreadable: {error}") from error
    samples = samples.mean(1)
    if rate < RATE:
        raise NotSpeech(f"recorded at {rate} Hz")
    if samples.size and np.mean(np.abs(samples) >= 0.999) > MOST_CLIPPED_SHARE:
        raise NotSpeech("clipped")
    resampled = soxr.resample(samples, rate, RATE, quality="VHQ")
    if _treble_db(resampled) < LEAST_TREBLE_DB:
        raise NotSpeech("nothing above 5 kHz")
    return to_int16(resampled)


def _treble_db(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(samples.size, 1 / RATE) if samples.size else np.zeros(1)
    return float(10 * np.log10((power[frequencies > 5000].sum() + 1e-12) / (power.sum() + 1e-9)))
