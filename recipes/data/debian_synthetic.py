"""Synthetic men: festival, flite and espeak-ng voices read made-up sentences, to widen a corpus of few speakers."""

import functools
import io
import random
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from zoo.codecs.errors import UserError
from zoo.recipes.data.debian_clips import RATE, Clip, NotSpeech, run_program, to_int16
from zoo.recipes.data.synthetic_sentences import sentence


@dataclass(frozen=True)
class Voice:
    """A synthesizer's voice, the language of its sentences, and how many of about five seconds each it reads."""

    program: str
    voice: str
    language: str
    package: str
    license: str
    credit: str
    sentences: int = 50
    encoding: str = "ascii"


_CMU = "Carnegie Mellon University"
_CSTR = "Centre for Speech Technology Research, University of Edinburgh"
_IFM = "Italian Festival Modules by ISTC-SPFD CNR and ITC-irst"
_ESPEAK = "eSpeak NG by Jonathan Duddington and others"

# Men, most of them built from a recorded man's speech; espeak-ng's formant voices are cruder and get fewer sentences.
VOICES = {
    "kal": Voice("festival", "kal_diphone", "en", "festvox-kallpc16k", "MIT-like", f"A. W. Black, K. Lenzo, {_CMU}"),
    "ked": Voice("festival", "ked_diphone", "en", "festvox-kdlpc16k", "MIT-like", _CSTR),
    "pc": Voice("festival", "pc_diphone", "it", "festvox-itapc16k", "GPL-2+", _IFM, encoding="iso-8859-15"),
    "nsh": Voice("festival", "msu_ru_nsh_clunits", "ru", "festvox-ru", "BSD-like", "Nickolay V. Shmyrev", 80, "utf-8"),
    "machac": Voice("festival", "czech_machac", "cs", "festvox-czech-machac", "GPL-3+", "Brailcom", 50, "iso-8859-2"),
    "ph": Voice("festival", "czech_ph", "cs", "festvox-czech-ph", "GPL-2+", "Brailcom", 50, "iso-8859-2"),
    "mv": Voice("festival", "hy_fi_mv_diphone", "fi", "festvox-suopuhe-mv", "LGPL-2+", "Nicholas Volk, Martti Vainio",
                encoding="iso-8859-15"),
    "rms": Voice("flite", "rms", "en", "flite", "BSD-like", f"Flite by {_CMU}", 80),
    "awb": Voice("flite", "awb", "en", "flite", "BSD-like", f"Flite by {_CMU}", 80),
    "espeak-it": Voice("espeak-ng", "it+m3", "it", "espeak-ng", "GPL-3+", _ESPEAK, 20, "utf-8"),
    "espeak-de": Voice("espeak-ng", "de+m7", "de", "espeak-ng", "GPL-3+", _ESPEAK, 20, "utf-8"),
    "espeak-en": Voice("espeak-ng", "en-gb+m1", "en", "espeak-ng", "GPL-3+", _ESPEAK, 20, "utf-8"),
}  # fmt: skip

SYNTHETIC_CREDITS = [
    {"speakers": f"synthetic-{name}", "credit": voice.credit, "license": voice.license, "package": voice.package}
    for name, voice in VOICES.items()
]

_PROGRAMS = {"festival": "text2wave"}  # where the program that writes a file has another name
_FESTIVAL_PITCH_VOICES = ("kal_diphone", "ked_diphone")  # the voices whose intonation takes a mean and a deviation


def synthetic_clips(cache: Path) -> list[Clip]:
    """Every sentence of every voice, all in `train`, a folder `synthetic-VOICE` for each."""
    check_installed(VOICES.values(), "build without it by --sources prompts words")
    return [
        Clip("train", f"synthetic-{name}", f"{index:03}", functools.partial(_speak, voice, index))
        for name, voice in VOICES.items()
        for index in range(voice.sentences)
    ]


def check_installed(voices: Collection[Voice], instead: str) -> None:
    """Raise UserError, with what to do instead or what to install, where a program that reads aloud is missing."""
    for program in sorted({voice.program for voice in voices}):
        if not shutil.which(_PROGRAMS.get(program, program)):
            needed = {voice.package for voice in voices}
            if program == "festival":
                needed |= {"festival", "festival-czech"}
            raise UserError(
                f"{program} is missing; {instead}, or install all voices: sudo apt install {' '.join(sorted(needed))}"
            )


def read_aloud(voice: Voice, text: str, pitch: float | None = None) -> np.ndarray:
    """The text in a voice, int16 [time] at 16 kHz; pitch 0 to 1 within the voice's range, or the voice's own.

    Raises:
        NotSpeech: The synthesizer fails on this text.
    """
    with tempfile.TemporaryDirectory() as folder:
        wave = f"{folder}/speech.wav"
        if voice.program == "festival":
            _festival(voice, text, pitch, folder, wave)
        elif voice.program == "flite":
            tuned = [] if pitch is None else ["--seti", f"int_f0_target_mean={85 + 40 * pitch:.0f}"]
            run_program("flite", "-voice", voice.voice, *tuned, "-t", text, "-o", wave)
        else:
            tuned = [] if pitch is None else ["-p", f"{20 + 40 * pitch:.0f}"]
            run_program("espeak-ng", "-v", voice.voice, *tuned, "-s", "150", "-w", wave, text)
        samples, rate = soundfile.read(io.BytesIO(Path(wave).read_bytes()), dtype="float32")
    return to_int16(soxr.resample(samples, rate, RATE, quality="VHQ"))


def _speak(voice: Voice, index: int) -> np.ndarray:
    text = sentence(voice.language, f"{voice.voice}/{index}")
    return read_aloud(voice, text, random.Random(f"{voice.voice}/{index}").uniform(0, 1))


def _festival(voice: Voice, text: str, pitch: float | None, folder: str, wave: str) -> None:
    Path(folder, "text").write_text(text, encoding=voice.encoding)
    command = ["text2wave", "-eval", f"(voice_{voice.voice})"]
    if pitch is not None and voice.voice in _FESTIVAL_PITCH_VOICES:
        mean = f"(target_f0_mean {85 + 40 * pitch:.0f})"
        command += ["-eval", f"(set! int_lr_params '({mean} (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34)))"]
    run_program(*command, f"{folder}/text", "-o", wave)
    if not Path(wave).exists():  # festival exits with 0 whatever happens
        raise NotSpeech(f"festival made no speech; is the package {voice.package} installed?")
