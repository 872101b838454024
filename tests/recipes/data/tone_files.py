"""Audio files of one tone each, so that a crop's pitch tells which file it came from."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def write_tone(path: Path, hertz: float, seconds: float = 2.0, rate: int = RATE, amplitude: float = 0.2) -> Path:
    """A file of one sine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, (amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate)
    return path


def pitch(samples: np.ndarray, rate: int = RATE) -> float:
    """Frequency of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))
