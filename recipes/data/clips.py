"""Audio files as a store of clips at one sample rate, read piece by piece or held in memory; bad files are skipped."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32
from numpy import ndarray

from zoo.codecs.audio.io import MediaError, open_audio, read_audio
from zoo.codecs.errors import UserError
from zoo.recipes.data.files import BrokenFiles, find_files

AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3 .aiff .aif .g722 .m4a .aac .wma .webm .au .w64".split())

_log = logging.getLogger(__name__)
_SEEKABLE_FORMATS = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "AU")
_SEEKABLE_SUFFIXES = (".wav", ".flac", ".aiff", ".aif", ".w64", ".au")


def find_audio(folder: Path) -> list[Path]:
    """Every audio file below a folder; see `find_files`."""
    return find_files(folder, AUDIO_SUFFIXES, "audio")


class ClipStore:
    """Clips of one sample rate and channel count.

    A file that cannot be read is reported once, with the reason, and counted in `skipped`; this holds for files that
    break or vanish later too, and across the worker processes of a data loader.

    Attributes:
        paths: The files.
        lengths: Samples of each clip at `sample_rate`, 0 for a file that could not be read.
    """

    def __init__(self, paths: Sequence[Path], sample_rate: int, channels: int, in_memory: bool) -> None:
        self.paths = list(paths)
        self.sample_rate = sample_rate
        self.channels = channels
        self._broken = BrokenFiles(len(self.paths))
        self._memory: ndarray | None = None  # int16 [channel, time] of all clips, one after the other
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            if in_memory:
                clips = list(pool.map(self._decode, range(len(self.paths))))
                self._memory = np.concatenate(clips, axis=1)
                self.lengths = np.array([clip.shape[1] for clip in clips], np.int64)
                self._starts = np.cumsum(self.lengths) - self.lengths
            else:
                self.lengths = np.array(list(pool.map(self._scan, range(len(self.paths)))), np.int64)
        if not self.lengths.any():
            raise UserError(f"none of {len(self.paths)} audio files could be read, {self.paths[0]} among them")
        if self.skipped:
            _log.warning("%d of %d audio files cannot be read and are skipped", self.skipped, len(self.paths))

    @property
    def skipped(self) -> int:
        """Number of files that could not be read so far."""
        return len(self._broken)

    def read(self, clip: int, start: int, frames: int) -> Float32[ndarray, "channel time"]:
        """`frames` samples of a clip from sample `start`; fewer if the clip ends before.

        Raises:
            MediaError: The file can no longer be read; it has been reported and counted.
        """
        if self._memory is not None:
            first = self._starts[clip] + start
            last = min(first + frames, self._starts[clip] + self.lengths[clip])
            return self._memory[:, first:last].astype(np.float32) / 32768.0
        try:
            return self._read_file(self.paths[clip], start, frames)
        except (MediaError, soundfile.LibsndfileError, OSError) as error:
            self._broken.add(clip, error, self.paths[clip])
            raise MediaError(self.paths[clip], "cannot be read any more", "restore it") from error

    def _decode(self, clip: int) -> ndarray:
        try:
            samples, _ = read_audio(self.paths[clip], self.sample_rate, mono=self.channels == 1)
            samples = self._with_channels(samples)
        except MediaError as error:
            self._broken.add(clip, error, self.paths[clip])
            return np.zeros((self.channels, 0), np.int16)
        return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)

    def _scan(self, clip: int) -> int:
        try:
            with open_audio(self.paths[clip]) as file:
                frames = file.frames
                if frames is None:
                    frames = sum(block.shape[1] for block in file.blocks())
                return round(frames * self.sample_rate / file.rate)
        except MediaError as error:
            self._broken.add(clip, error, self.paths[clip])
            return 0

    def _read_file(self, path: Path, start: int, frames: int) -> ndarray:
        info = soundfile.info(path) if path.suffix.lower() in _SEEKABLE_SUFFIXES else None
        if info is None or info.format not in _SEEKABLE_FORMATS:
            samples, _ = read_audio(path, self.sample_rate, mono=self.channels == 1)
            return self._with_channels(samples)[:, start : start + frames]
        ratio = info.samplerate / self.sample_rate
        samples, rate = soundfile.read(
            path, int(np.ceil(frames * ratio)), int(start * ratio), dtype="float32", always_2d=True
        )
        if not np.isfinite(samples).all():
            raise MediaError(path, "holds NaN or infinite samples", "clean or re-export it")
        if self.channels == 1:
            samples = samples.mean(1, keepdims=True)
        if rate != self.sample_rate:
            samples = soxr.resample(samples, rate, self.sample_rate)
        return self._with_channels(np.ascontiguousarray(samples.T[:, :frames]))

    def _with_channels(self, samples: ndarray) -> ndarray:
        """Mono repeats in every channel; too many channels lose the last ones."""
        if samples.shape[0] < self.channels:
            samples = np.repeat(samples[:1], self.channels, axis=0)
        return samples[: self.channels]
