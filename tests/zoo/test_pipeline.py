"""Files of any rate, length and channel count become token files and come back as they were."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toy_codec import ToyCodec, ToyConfig

import zoo
from zoo import pipeline_audio
from zoo.codecs.audio.io import read_audio
from zoo.codecs.base import Tokens
from zoo.codecs.errors import UserError
from zoo.container import TokenReader, measured_kbps

RATE = 8000  # the toy codec's


def tones(samples: int, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """A sine in each channel, all of different pitch and level, `[channel, time]`."""
    time = np.arange(samples) / rate
    return np.stack([np.sin(2 * np.pi * (60 + 20 * i) * time) / (2 + i) for i in range(channels)]).astype(np.float32)


def record(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples.T, rate, subtype=subtype)
    return path


def named(codec: ToyCodec, name: str = "toy.test", weights: str = "ab" * 32) -> ToyCodec:
    codec.name, codec.weights = name, weights
    return codec


@pytest.fixture
def codec() -> ToyCodec:
    return named(ToyCodec())


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Work in chunks of 0.05 s, so that a second of sound crosses many borders."""
    monkeypatch.setattr(pipeline_audio, "CHUNK_SECONDS", 0.05)


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize(
    ("rate", "samples"), [(8000, 8000), (8000, 7919), (44100, 30011), (192000, 100003), (11025, 11025), (16000, 2)]
)
def test_rate_length_and_channels_come_back(rate, samples, channels, codec, small_chunks, tmp_path) -> None:
    sound = tones(samples, channels, rate)
    zoo.tokenize(record(tmp_path / "a.wav", sound, rate), tmp_path / "a.ztok", codec)
    facts = zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
    read, read_rate = read_audio(tmp_path / "b.wav")
    assert read_rate == rate and read.shape == (channels, samples)
    assert (facts["rate"], facts["channels"], facts["samples"]) == (rate, channels, samples)
    # The toy smooths, so away from the ends a tone stays within 30 % of its level; channels in the wrong order or a
    # shift of a few milliseconds would not.
    inside = slice(samples // 10, samples - samples // 10)
    error = np.abs(read - sound)[:, inside].max(axis=1, initial=0)
    assert samples < 10 or (error < 0.3 / (2 + np.arange(channels))).all()


def test_one_sample_comes_back_at_any_rate(codec, tmp_path) -> None:
    for rate in (1, 8000, 192000, 10_000_000):
        for channels in (1, 3):
            record(tmp_path / "a.wav", np.full((channels, 1), 0.5), rate)
            zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec)
            zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
            assert read_audio(tmp_path / "b.wav")[0].shape == (channels, 1)


def test_silence_stays_silent(codec, tmp_path) -> None:
    zoo.tokenize(record(tmp_path / "a.wav", np.zeros((2, 9000))), tmp_path / "a.ztok", codec)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
    assert np.abs(read_audio(tmp_path / "b.wav")[0]).max() < 1e-4


@pytest.mark.parametrize("gain", [True, False])
def test_codes_and_samples_are_those_of_the_whole_recording_at_once(gain, small_chunks, tmp_path) -> None:
    codec = named(ToyCodec(ToyConfig(gain=gain)))
    sound = tones(7919, 2)
    sound[:, :4000] /= 100  # so that a gain measured on the first chunk would be wrong
    record(tmp_path / "a.wav", sound)
    media = torch.from_numpy(read_audio(tmp_path / "a.wav")[0])[:, None]
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec)
    tokens = codec.encode(media)
    with TokenReader(tmp_path / "a.ztok") as reader:
        assert torch.equal(reader.read(), tokens.codes)
        assert reader.header.scales == (None if tokens.scales is None else tuple(tokens.scales.tolist()))
        assert (reader.header.codec, reader.header.weights) == ("toy.test", "ab" * 32)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
    # Written with 16 bits, whose step is 2^-15.
    assert np.abs(read_audio(tmp_path / "b.wav")[0] - codec.decode(tokens)[:, 0].numpy()).max() <= 2**-15


def test_fewer_codebooks_can_be_chosen_on_either_side(codec, tmp_path) -> None:
    record(tmp_path / "a.wav", tones(8000))
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "all.ztok", codec)
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "one.ztok", codec, codebooks=1)
    zoo.reconstruct(tmp_path / "all.ztok", tmp_path / "b.wav", codec, codebooks=1)
    zoo.reconstruct(tmp_path / "one.ztok", tmp_path / "c.wav", codec)
    zoo.reconstruct(tmp_path / "all.ztok", tmp_path / "d.wav", codec)
    b, c, d = ((tmp_path / name).read_bytes() for name in ("b.wav", "c.wav", "d.wav"))
    assert b == c != d


def test_a_bitrate_chooses_the_most_codebooks_that_fit(codec, tmp_path) -> None:
    # 2000 Hz: 16 kbps with one codebook, 30 with both, for each channel.
    record(tmp_path / "a.wav", tones(80000, 2))
    for kbps, codebooks in ((60, 2), (59.9, 1), (32, 1)):
        facts = zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, kbps=kbps, entropy="none")
        assert facts["codebooks"] == codebooks
    # 20,000 frames of 2 * 8 bits in 10 s, 4 bytes for each block of 256 frames, 133 bytes around.
    assert measured_kbps(tmp_path / "a.ztok") == facts["kbps"] == pytest.approx(32, rel=0.02)
    assert zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, kbps=30, channels="mix")["codebooks"] == 2
    with pytest.raises(UserError, match="take 32 kbps at least"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, kbps=31)
    with pytest.raises(UserError, match="not both"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, kbps=60, codebooks=2)
    with pytest.raises(UserError, match=r"ask for 1\.\.2"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, codebooks=3)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_part_is_the_same_as_that_part_of_the_whole(rate, codec, small_chunks, tmp_path) -> None:
    zoo.tokenize(record(tmp_path / "a.wav", tones(rate * 2, 2, rate), rate), tmp_path / "a.ztok", codec)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "whole.wav", codec)
    whole = read_audio(tmp_path / "whole.wav")[0]
    for start, stop in ((0.7331, 1.4), (None, 0.25), (1.9, None), (0, 2), (1.5, 99)):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "part.wav", codec, start=start, stop=stop)
        first, last = round((start or 0) * rate), round(min(2, stop or 2) * rate)
        part = read_audio(tmp_path / "part.wav")[0]
        # Equal but for one step of 16 bits, by which two resamplings may round apart.
        assert part.shape == (2, last - first) and np.abs(part - whole[:, first:last]).max() <= 2**-15 + 1e-9
    for start, stop in ((2, None), (1, 0.5), (-1, 1)):
        with pytest.raises(UserError, match="has no samples from"):
            zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "part.wav", codec, start=start, stop=stop)


def test_channels_can_be_mixed_into_one_stream(codec, tmp_path) -> None:
    sound = tones(8000, 3)
    record(tmp_path / "a.wav", sound)
    facts = zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, channels="mix")
    assert (facts["rows"], facts["channels"], facts["mixed"]) == (1, 3, True)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "one.wav", codec)
    one = read_audio(tmp_path / "one.wav")[0]
    assert one.shape == (1, 8000) and np.abs(one - sound.mean(axis=0))[:, 10:-10].max() < 0.1
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "three.wav", codec, channels=3)
    assert np.array_equal(read_audio(tmp_path / "three.wav")[0], np.repeat(one, 3, axis=0))


def test_another_rate_and_channel_count_can_be_asked_for(codec, tmp_path) -> None:
    zoo.tokenize(record(tmp_path / "a.wav", tones(44100, 2, 44100), 44100), tmp_path / "a.ztok", codec)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec, rate=16000, channels=1)
    read, rate = read_audio(tmp_path / "b.wav")
    assert rate == 16000 and read.shape == (1, 16000)
    with pytest.raises(UserError, match="holds 2 channels, 5 were asked for"):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec, channels=5)
    with pytest.raises(UserError, match="a sample rate of 0 Hz"):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec, rate=0)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_stereo_codec_takes_any_channel_count(channels, tmp_path) -> None:
    codec = named(ToyCodec(ToyConfig(channels=2)))
    facts = zoo.tokenize(record(tmp_path / "a.wav", tones(8000, channels)), tmp_path / "a.ztok", codec)
    assert facts["rows"] == (2 if channels == 3 else 1)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
    assert read_audio(tmp_path / "b.wav")[0].shape == (channels, 8000)


def test_audio_is_tokenized_and_reconstructed_in_one_go(codec, tmp_path) -> None:
    record(tmp_path / "a.wav", tones(8000, 2))
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, codebooks=1)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec)
    zoo.reconstruct(tmp_path / "a.wav", tmp_path / "c.wav", codec, codebooks=1)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()
    assert zoo.reconstruct(tmp_path / "a.wav", tmp_path / "c.flac", codec)["samples"] == 8000
    assert soundfile.info(tmp_path / "c.flac").format == "FLAC"


def test_progress_counts_the_seconds(codec, small_chunks, tmp_path) -> None:
    reports: list[tuple[float, float | None]] = []
    report = lambda *numbers: reports.append(numbers)  # noqa: E731
    record(tmp_path / "a.wav", tones(8000))
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", codec, progress=report)
    assert reports[-1] == (1, 1) and len(reports) == 20 and reports == sorted(reports)
    reports.clear()
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec, progress=report)
    assert reports[-1] == (1, 1) and reports == sorted(reports)


def test_tokens_of_another_codec_or_of_other_weights_are_refused(codec, tmp_path) -> None:
    zoo.tokenize(record(tmp_path / "a.wav", tones(8000)), tmp_path / "a.ztok", codec)
    others = {
        "with weights abababababab, loaded are cdcdcdcdcdcd": named(ToyCodec(), weights="cd" * 32),
        "made by another codec, 'toy.test': 8000 Hz, hop 4": named(ToyCodec(ToyConfig(hop=8))),
        "given was one of 16000 Hz": named(ToyCodec(ToyConfig(sample_rate=16000))),
    }
    for cause, other in others.items():
        with pytest.raises(UserError, match=cause):
            zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", other)
    with pytest.raises(UserError, match="'toy.test', which does not ship with this program; name it with --model"):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav")
    with pytest.raises(UserError, match="holds 2 codebooks, 3 were asked for"):
        zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", codec, codebooks=3)
    assert not (tmp_path / "b.wav").exists()


def test_the_tokens_in_a_file_decode_through_the_codec_itself(codec, tmp_path) -> None:
    zoo.tokenize(record(tmp_path / "a.wav", tones(8000)), tmp_path / "a.ztok", codec)
    with TokenReader(tmp_path / "a.ztok") as reader:
        header = reader.header
        tokens = Tokens(
            reader.read(), torch.tensor([reader.length]), torch.tensor(header.scales), header.codec, header.weights
        )
    assert codec.decode(tokens).shape == (1, 1, 8000)


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path) -> None:
    script = """
import sys
import numpy as np, torch
from toy_codec import ToyCodec, ToyConfig
import zoo
from zoo.codecs.audio.io import AudioWriter
seconds, folder = int(sys.argv[1]), sys.argv[2]
noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44100)).astype(np.float32)
with AudioWriter(folder + "/a.wav", 44100, 2) as writer:
    for _ in range(seconds):
        writer.write(noise)
codec = ToyCodec(ToyConfig(sample_rate=16000, hop=320))
zoo.tokenize(folder + "/a.wav", folder + "/a.ztok", codec)
assert zoo.reconstruct(folder + "/a.ztok", folder + "/b.wav", codec)["samples"] == seconds * 44100
# Not getrusage: its peak starts from that of the process which called this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    peaks = {}
    for seconds in (60, 3600):
        ran = subprocess.run(
            [sys.executable, "-c", script, str(seconds), str(tmp_path)],
            capture_output=True, text=True, cwd=Path(__file__).parent,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        peaks[seconds] = int(ran.stdout) * 1024
    # 50 MB for what an allocator leaves between its blocks; the hour itself has 635 MB.
    assert peaks[3600] < peaks[60] + 50e6 and peaks[3600] < 1e9, peaks
