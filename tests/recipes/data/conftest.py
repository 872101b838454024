"""A small corpus of pure tones."""

from pathlib import Path

import pytest
from tone_files import write_tone


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Three speakers of 500, 1000 and 2000 Hz in three formats: 12 s, 6 s and 2 s of audio."""
    for k in range(6):
        write_tone(tmp_path / "low" / f"{k}.wav", 500)
    for k in range(3):
        write_tone(tmp_path / "middle" / "deeper" / f"{k}.flac", 1000)
    write_tone(tmp_path / "high" / "0.ogg", 2000)
    return tmp_path
