"""Audio files are read whole, in any blocks and at any rate, or refused with one clear line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zoo.codecs.audio.io import AudioWriter, MediaError, open_audio, read_audio, resample
from zoo.codecs.errors import UserError

RATE = 16000
LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}


def tone(seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Each channel a sine of its own pitch, `[channel, time]`."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 110 * (i + 1) * time) for i in range(channels)]).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples.T, rate, **options)
    return path


def refusal(path: Path) -> str:
    """The one line with which reading the whole file is refused."""
    with pytest.raises(MediaError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("kind", sorted(LIBSNDFILE.keys() - {"opus"}))  # whose encoder garbles the end of a tone
def test_every_format_gives_the_samples_that_went_in(kind: str, tmp_path: Path) -> None:
    sound = tone(channels=2)
    path = write(tmp_path / f"a.{kind}", sound, format=LIBSNDFILE[kind][0], subtype=LIBSNDFILE[kind][1])
    read, rate = read_audio(path)
    assert rate == RATE and read.shape == sound.shape
    # Lossy formats keep a loud steady tone within a tenth of its amplitude.
    assert np.abs(read - sound).max() < (0.05 if kind in ("ogg", "mp3") else 1e-4)


@pytest.mark.parametrize("kind", LIBSNDFILE)
@pytest.mark.parametrize("missing", [1, 0.3, 0.6])
def test_a_file_that_lost_its_end_is_refused(kind: str, missing: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", tone(3), format=LIBSNDFILE[kind][0], subtype=LIBSNDFILE[kind][1])
    data = path.read_bytes()
    path.write_bytes(data[: -(missing if missing == 1 else int(len(data) * missing))])
    # "malformed": what libsndfile says of an Ogg file cut in its first pages.
    assert any(cause in refusal(path) for cause in ("is truncated or damaged", "malformed"))


@pytest.mark.parametrize("kind", LIBSNDFILE)
def test_a_file_that_is_hardly_begun_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", tone(), format=LIBSNDFILE[kind][0], subtype=LIBSNDFILE[kind][1])
    data = path.read_bytes()
    for size in (1, 3, 10, 17):
        path.write_bytes(data[:size])
        assert refusal(path)


def test_a_recording_whose_header_states_no_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "piped.wav", tone())
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # what programs write that pipe wav
    path.write_bytes(data)
    assert read_audio(path)[0].shape == (1, RATE)


@pytest.mark.parametrize("frames", [1, 7, 4096, 10**6])
def test_blocks_of_any_size_make_up_the_same_recording(frames: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(0.1, channels=3))
    with open_audio(path) as file:
        assert (file.rate, file.channels, file.frames, file.format) == (RATE, 3, 1600, "FLAC")
        blocks = list(file.blocks(frames))
    assert max(block.shape[1] for block in blocks) <= frames
    assert np.array_equal(np.concatenate(blocks, axis=1), read_audio(path)[0])


def test_a_second_pass_gives_the_same_samples(tmp_path: Path) -> None:
    # libsndfile's own seek to the start does not, for mp3.
    path = write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.5, 0.5, (1, 9 * RATE)))
    with open_audio(path) as file:
        first = np.concatenate(list(file.blocks()), axis=1)
        next(file.blocks(100))
        assert np.array_equal(first, np.concatenate(list(file.blocks()), axis=1))


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.raw", "a", "a.g722", "a.txt"])
def test_content_decides_what_a_file_is(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "right.wav", tone())
    path.rename(tmp_path / name)
    assert read_audio(tmp_path / name)[0].shape == (1, RATE)


def test_things_that_are_no_recordings_are_refused_by_name_and_cause(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("Dear diary,\n" * 99)
    assert "read" in refusal(tmp_path / "text.wav")
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "read" in refusal(tmp_path / "noise.mp3")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "is not a regular file" in refusal(tmp_path / "pipe.wav")
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere.wav")
    assert "holds no audio samples" in refusal(write(tmp_path / "none.wav", np.zeros((1, 0), np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_sound_are_refused_with_their_place(value: float, tmp_path: Path) -> None:
    sound = tone(2, channels=2)
    sound[1, 24000] = value  # second 1.5
    path = write(tmp_path / "a.wav", sound, subtype="FLOAT")
    assert "at 1.500 s" in refusal(path)
    with open_audio(path) as file, pytest.raises(MediaError, match=r"at 1\.500 s"):
        list(file.blocks(777))


def test_an_absurd_sample_rate_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[24:28] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    assert "states a sample rate of 2147483647 Hz" in refusal(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_sample_formats_all_read_as_the_same_sound(subtype: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(), subtype=subtype)
    # Eight bits are steps of 1/128; mu-law's are coarser at the peaks.
    tolerance = {"PCM_U8": 1 / 128, "ULAW": 1 / 32}.get(subtype, 1e-4)
    assert np.abs(read_audio(path)[0] - tone()).max() < tolerance


@pytest.mark.parametrize(("rate", "new"), [(44100, 16000), (8000, 24000), (192000, 16000), (11025, 48000)])
def test_resampling_does_not_depend_on_blocks(rate: int, new: int) -> None:
    sound = np.random.default_rng(0).standard_normal((2, 20001)).astype(np.float32)
    whole = np.concatenate(list(resample([sound], rate, new)), axis=1)
    cuts = np.cumsum([1, 100, 7, 5000, 333])
    pieces = np.concatenate(list(resample(np.split(sound, cuts, axis=1), rate, new)), axis=1)
    assert whole.shape == (2, round(20001 * new / rate)) and np.array_equal(whole, pieces)


def test_resampling_keeps_a_tone_in_place() -> None:
    sound = np.concatenate(list(resample([tone(rate=44100)], 44100, RATE)), axis=1)
    # Away from the ends, where the filter sees the silence outside.
    assert np.abs(sound - tone())[:, 500:-500].max() < 1e-3


def test_equal_rates_pass_every_sample_untouched() -> None:
    block = tone()
    assert list(resample([block], RATE, RATE))[0] is block


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(channels=4), subtype="FLOAT")
    read, rate = read_audio(path, rate=8000, mono=True)
    assert rate == 8000 and read.shape == (1, 8000)
    assert np.abs(read_audio(path, mono=True)[0] - tone(channels=4).mean(axis=0)).max() < 1e-6


def test_other_formats_are_read_by_ffmpeg_or_refused_with_the_way_out(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.g722"
    if shutil.which("ffmpeg"):
        write(tmp_path / "a.wav", tone(2))
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", path], check=True)
        with open_audio(path) as file:
            assert (file.rate, file.channels, file.frames) == (RATE, 1, None)
            for _ in range(2):
                read = np.concatenate(list(file.blocks(1000)), axis=1)
                assert read.shape == (1, 2 * RATE)
                # The codec's filter bank delays by 22 samples.
                assert np.corrcoef(read[0, 22:], tone(2)[0, :-22])[0, 1] > 0.99
    else:
        path.write_bytes(bytes(1000))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install ffmpeg" in refusal(path)


def test_an_mp3_that_states_no_length_is_never_read_in_part(tmp_path: Path, monkeypatch) -> None:
    # libsndfile guesses its length from the first frames, and stopped after 3 of 20 seconds of such a file.
    path = write(tmp_path / "a.mp3", tone(3))
    data = path.read_bytes()
    assert data.count(b"Xing") == 1
    path.write_bytes(data.replace(b"Xing", b"\0\0\0\0"))
    if shutil.which("ffmpeg"):
        assert read_audio(path)[0].shape[1] >= 3 * RATE
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not state its length" in refusal(path)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_what_is_written_can_be_read(ending: str, tmp_path: Path) -> None:
    sound = tone(channels=2)
    with AudioWriter(tmp_path / f"a{ending}", RATE, 2) as writer:
        writer.write(sound[:, :777])
        writer.write(sound[:, 777:])
    read, rate = read_audio(tmp_path / f"a{ending}")
    assert rate == RATE and read.shape == sound.shape and np.abs(read - sound).max() < 0.05


def test_too_loud_samples_are_clipped_and_do_not_wrap_around(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "a.wav", RATE, 1) as writer:
        writer.write(np.array([[2.0, -2.0, 0.5]], np.float32))
    assert np.allclose(read_audio(tmp_path / "a.wav")[0], [[1, -1, 0.5]], atol=1e-4)


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("mine")
    with pytest.raises(ZeroDivisionError), AudioWriter(path, RATE, 1) as writer:
        writer.write(tone())
        raise ZeroDivisionError
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_targets_that_cannot_be_written_are_refused_by_name_and_cause(tmp_path: Path) -> None:
    for name, cause in [
        ("a.xyz", "choose a name that ends in"),
        ("no/a.wav", "create it first"),
        (f"{'a' * 300}.wav", "cannot write"),
    ]:
        with pytest.raises(UserError, match=cause), AudioWriter(tmp_path / name, RATE, 1) as writer:
            writer.write(tone())
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        AudioWriter(tmp_path / "folder.wav", RATE, 1)
    with pytest.raises(UserError, match="MP3 cannot hold 8 channels at 192000 Hz"):
        AudioWriter(tmp_path / "a.mp3", 192000, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.wav"]


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_write_that_the_system_refuses_is_one_error_and_leaves_nothing(ending: str, tmp_path: Path) -> None:
    # A limit on file size fails a write at the same place as a full disk does, without a disk to fill.
    script = f"""
import resource, signal, sys
import numpy as np
from zoo.codecs.audio.io import AudioWriter
from zoo.codecs.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with AudioWriter({str(tmp_path / f"a{ending}")!r}, 16000, 1) as writer:
        for seed in range(4):
            writer.write(np.random.default_rng(seed).uniform(-1, 1, (1, 16000)).astype(np.float32))
except UserError as error:
    print(error)
    sys.exit(2)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 2, ran.stderr
    assert f"a{ending}: cannot write: File too large" in ran.stdout and ran.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
