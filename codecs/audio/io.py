"""Audio files in and out, in blocks of bounded memory and at any sample rate, with one clear error for a bad file.

libsndfile reads and writes wav, flac, ogg, mp3, aiff and their kin; an `ffmpeg` on the path reads all else (g722, m4a,
webm, ...). A file's content decides what it is, not its name. A file that ends before its own header says is refused;
formats whose header says nothing (recordings piped to disk) are read to their end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32
from numpy import ndarray

from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, MediaError, check_readable, printable

BLOCK = 65536
LOUDEST = 1e6  # 120 dB above full scale is no recording, and its square is within a few steps of float32's end.
FASTEST = 10_000_000
FORMATS = {  # no .opus: libsndfile 1.2 ends such files with a loud burst
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
}


class AudioFile:
    """An open audio file.

    Attributes:
        path: Where it is.
        rate: Samples a second, in Hz.
        channels: Number of channels.
        frames: Samples in each channel; None if only reading to the end can tell.
        format: Short name of the format, such as "WAV".
    """

    def __init__(self, path: Path, decoder: _Decoder) -> None:
        self.path = path
        self.rate, self.channels, self.frames, self.format = (
            decoder.rate, decoder.channels, decoder.frames, decoder.format
        )  # fmt: skip
        self._decoder = decoder

    def blocks(self, frames: int = BLOCK) -> Iterator[Float32[ndarray, "channel time"]]:
        """The whole recording from its start, `frames` samples at a time (the last block may be shorter).

        Raises:
            MediaError: Damaged or truncated file, no samples at all, or values that are not finite.
        """
        self._decoder.rewind()
        done = 0
        while (block := self._decoder.read(frames)).shape[0]:
            peak = np.abs(block).max()
            if not peak <= LOUDEST:  # also true for NaN
                bad = int((~(np.abs(block) <= LOUDEST)).any(axis=1).argmax())
                raise MediaError(
                    self.path,
                    f"holds NaN, infinite or absurdly loud samples ({block[bad].tolist()}), the first at"
                    f" {(done + bad) / self.rate:.3f} s",
                    "clean or re-export it",
                )
            done += block.shape[0]
            yield np.ascontiguousarray(block.T)
        if self.frames is not None and done != self.frames:
            raise truncated(self.path, f"its header says {self.frames} samples, {done} could be read")
        if done == 0:
            raise MediaError(self.path, "holds no audio samples", "give a recording of at least one sample")

    def close(self) -> None:
        self._decoder.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(path: str | Path) -> AudioFile:
    """Open an audio file of any supported format; use it in a `with` statement.

    Raises:
        MediaError: Missing, a folder, empty, truncated, or nothing that libsndfile or ffmpeg can read.
    """
    path = Path(path)
    check_readable(path)
    try:
        decoder: _Decoder = _SoundFile(path)
    except _Unreadable as reason:
        decoder = _Ffmpeg(path, str(reason))
    if decoder.frames == 0:
        decoder.close()
        raise MediaError(path, "holds no audio samples", "give a recording of at least one sample")
    if not 1 <= decoder.rate <= FASTEST:
        decoder.close()
        raise MediaError(
            path,
            f"states a sample rate of {decoder.rate} Hz, above {FASTEST} Hz",
            "correct it in the header, or resample",
        )
    return AudioFile(path, decoder)


def read_audio(
    path: str | Path, rate: int | None = None, mono: bool = False
) -> tuple[Float32[ndarray, "channel time"], int]:
    """A whole recording and its sample rate: resampled to `rate` and averaged to one channel if asked."""
    with open_audio(path) as file:
        blocks: Iterable[ndarray] = file.blocks()
        if mono:
            blocks = (block.mean(axis=0, keepdims=True) for block in blocks)
        if rate is not None:
            blocks = resample(blocks, file.rate, rate)
        parts = list(blocks)
        return np.concatenate(parts, axis=1), rate or file.rate


def resample(
    blocks: Iterable[Float32[ndarray, "channel time"]], rate: int, new_rate: int
) -> Iterator[Float32[ndarray, "channel time"]]:
    """Blocks at another sample rate; the samples do not depend on how the recording is cut into blocks.

    n samples become round(n * new_rate / rate), without delay. Equal rates pass every sample through untouched.
    """
    if rate == new_rate:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, new_rate, block.shape[0], dtype="float32")
        out = stream.resample_chunk(np.ascontiguousarray(block.T))
        if len(out):
            yield np.ascontiguousarray(out.T)
    if stream is not None:
        out = stream.resample_chunk(np.empty((0, block.shape[0]), np.float32), last=True)
        if len(out):
            yield np.ascontiguousarray(out.T)


class AudioWriter:
    """Write an audio file block by block; it appears under its name when `with` ends well, and otherwise not at all.

    The name's ending chooses the format; `subtype` is libsndfile's name of the sample format (16 bit unless given).
    """

    def __init__(self, path: str | Path, rate: int, channels: int, subtype: str | None = None) -> None:
        kind = FORMATS.get(Path(path).suffix.lower())
        if kind is None:
            raise UserError(
                f"{printable(path)}: cannot write audio of that kind; choose a name that ends in {', '.join(FORMATS)}"
            )
        self._limit = 4_000_000_000 if kind[0] in ("WAV", "AIFF") else None  # their sizes are 32-bit numbers
        self._atomic = AtomicFile(path)
        self._sink = _Sink(self._atomic.file)
        self._sound = None
        try:
            self._sound = soundfile.SoundFile(self._sink, "w", rate, channels, subtype or kind[1], format=kind[0])
        except (soundfile.LibsndfileError, ValueError) as error:
            self._atomic.discard()
            raise UserError(
                f"{printable(path)}: {kind[0]} cannot hold {channels} channels at {rate} Hz as {subtype or kind[1]};"
                " write .wav, or another rate or channel count"
            ) from error

    def write(self, block: Float32[ndarray, "channel time"]) -> None:
        """Append samples; those outside [-1, 1] are clipped by integer formats."""
        if self._limit is not None and self._sink.tell() > self._limit:
            raise UserError(f"{self._atomic.shown}: would grow over the 4 GB that this format can hold; write .flac")
        try:
            self._sound.write(np.ascontiguousarray(block.T))
        except (soundfile.LibsndfileError, AssertionError) as error:
            raise self._sink.error or error from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._sound.close()
        except soundfile.LibsndfileError as failure:
            error = error or failure
        # libsndfile swallows errors of the last flush, so the sink is asked.
        error = error if isinstance(error, KeyboardInterrupt) else self._sink.error or error
        self._atomic.__exit__(type(error) if error else None, error, None)


def truncated(path: Path, detail: str) -> MediaError:
    """The error for a file that ends too early."""
    return MediaError(path, f"is truncated or damaged ({detail})", "copy it again, or repair it with ffmpeg")


class _Decoder(Protocol):
    rate: int
    channels: int
    frames: int | None
    format: str

    def rewind(self) -> None: ...

    def read(self, frames: int) -> Float32[ndarray, "time channel"]: ...

    def close(self) -> None: ...


class _Unreadable(Exception):
    """libsndfile cannot read a file; the message says why."""


class _SoundFile:
    """Decode through libsndfile. It gets a descriptor, not a name, so that only the content can decide."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            check_mp3(path)
            self.sound = self._open()
            check_stated_length(path, self.sound.extra_info)
            if self.sound.format == "OGG":
                check_ogg(path)
        except BaseException as error:
            os.close(self.descriptor)
            if isinstance(error, soundfile.LibsndfileError):
                raise _Unreadable(error.error_string.strip().rstrip(".")) from error
            raise
        self.rate, self.channels = self.sound.samplerate, self.sound.channels
        self.frames, self.format = self.sound.frames, self.sound.format

    def _open(self) -> soundfile.SoundFile:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return soundfile.SoundFile(self.descriptor, closefd=False)

    def rewind(self) -> None:
        # Opened anew, because a seek to 0 does not give the same samples for mp3.
        self.sound.close()
        self.sound = self._open()

    def read(self, frames: int) -> Float32[ndarray, "time channel"]:
        try:
            return self.sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise truncated(self.path, error.error_string.strip().rstrip(".")) from error

    def close(self) -> None:
        if not self.sound.closed:
            self.sound.close()
            os.close(self.descriptor)


class _Ffmpeg:
    """Decode through an ffmpeg process that pipes float32 samples."""

    format = "FFMPEG"
    frames = None

    def __init__(self, path: Path, refusal: str) -> None:
        """`refusal` is what libsndfile said about the file."""
        self.path = path
        self.process: subprocess.Popen[bytes] | None = None
        if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
            raise MediaError(
                path, f"libsndfile cannot read it ({refusal or 'format not recognised'})",
                "if it is audio, install ffmpeg or convert it to wav or flac",
            )  # fmt: skip
        probe = subprocess.run(
            ["ffprobe", "-v", "error", "-protocol_whitelist", "file", "-select_streams", "a:0", "-of", "json",
             "-show_entries", "stream=sample_rate,channels:format=format_name", f"file:{path}"],
            capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        facts: dict[str, Any] = json.loads(probe.stdout or b"{}") if probe.returncode == 0 else {}
        stream = next(iter(facts.get("streams", [])), {})
        self.rate, self.channels = int(stream.get("sample_rate", 0)), int(stream.get("channels", 0))
        if self.rate < 1 or self.channels < 1:
            raise MediaError(
                path, f"is not audio that libsndfile or ffmpeg can read ({refusal or 'format not recognised'})",
                "check that it is a whole audio file, or convert it to wav or flac",
            )  # fmt: skip
        self.format = facts["format"]["format_name"].split(",")[0].upper()

    def rewind(self) -> None:
        self.close()
        self.complaints = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["ffmpeg", "-v", "error", "-xerror", "-nostdin", "-protocol_whitelist", "file,pipe", "-i",
             f"file:{self.path}", "-map", "0:a:0", "-ar", str(self.rate), "-ac", str(self.channels), "-f", "f32le",
             "pipe:1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.complaints,
        )  # fmt: skip

    def read(self, frames: int) -> Float32[ndarray, "time channel"]:
        data = self.process.stdout.read(frames * self.channels * 4)
        if not data:
            status = self.process.wait()
            self.complaints.seek(0)
            said = self.complaints.read(4096).decode(errors="replace").strip()
            if status or said:
                raise truncated(self.path, f"ffmpeg: {said.splitlines()[0] if said else f'exit status {status}'}")
        return np.frombuffer(data[: len(data) // (4 * self.channels) * 4 * self.channels], "<f4").reshape(
            -1, self.channels
        )

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.complaints.close()
            self.process = None


class _Sink:
    """A file for libsndfile to write to that remembers why a write failed."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.read, self.flush = file.seek, file.tell, file.read, file.flush

    def write(self, data: bytes) -> int:
        try:
            view, done = memoryview(data), 0
            while done < len(view):
                done += self.file.write(view[done:])
            return done
        except OSError as error:
            self.error = error
            return 0


def check_stated_length(path: Path, log: str) -> None:
    """Raise if libsndfile's log says that it had to cut the header's length down to what is there."""
    for label, stated, real in re.findall(r"^\W*([\w ]+?)\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        # "RIFF" and "FORM" count everything and are often wrong in whole files. A recorder that could not go back to
        # fill the length in leaves 0 or close to 2^31 or 2^32 there.
        endless = int(stated) >= 0x7FFF0000
        if label.strip() not in ("RIFF", "FORM") and int(stated) > int(real) and not endless:
            raise truncated(path, f"its header says {stated} bytes, {real} are there")
    if match := re.search(r"'COMM' chunk \((\d+)\) not equal to frame count", log):
        raise truncated(path, f"its header says {match[1]} samples, fewer are there")


def check_mp3(path: Path) -> None:
    """Raise for mp3 files of whose length libsndfile has no true idea.

    MediaError: the file is shorter than its own first frame says. _Unreadable, which sends the file to ffmpeg: there is
    no such frame, and libsndfile would stop at a guessed length.
    """
    with open(path, "rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(start)
        frame = file.read(512)
    if not (len(frame) > 3 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 and frame[1] & 0x06):
        return
    tag = re.search(rb"(?:Xing|Info)(.{12})", frame, re.DOTALL)
    if tag is None:
        raise _Unreadable("an mp3 that does not state its length")
    flags, size = tag[1][3], int.from_bytes(tag[1][8:12], "big")
    if flags & 3 == 3 and start + size > path.stat().st_size:
        raise truncated(path, f"its header says {start + size} bytes, {path.stat().st_size} are there")


def check_ogg(path: Path) -> None:
    """Raise unless the last page of an Ogg file is whole and marked as the last."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))  # no page is larger than 65,307 bytes
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4 or 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page):
        raise truncated(path, "its last page is missing or cut")
