"""Classical coders are measured at the bits that they take, not at their labels, and reported beside ours."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from zoo.baselines import BASELINES, codec2, fit_opus, measure_baselines, ogg_packets, opus, require_tools
from zoo.codecs.errors import UserError
from zoo.report import card_table, draw, read
from zoo.scoring import common_delay, conditions, describe, select, write_json

RATE = 16000


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One clip of 2.5 s of voiced bursts with a falling pitch."""
    root = tmp_path_factory.mktemp("clips")
    time = np.arange(int(2.5 * RATE)) / RATE
    phase = 2 * np.pi * (160 * time - 15 * time**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    breath = 0.05 * np.random.default_rng(0).standard_normal(len(time))
    soundfile.write(root / "voice.wav", 0.1 * (voice + breath) * (np.sin(2 * np.pi * 1.5 * time + 0.1) > 0), RATE)
    return select(root)[0]


@pytest.fixture(scope="module")
def report(clips, tmp_path_factory):
    """A JSON file with all baselines on that clip, and one with a codec's rows on it."""
    folder = tmp_path_factory.mktemp("json")
    facts = {"data": describe(clips, "somewhere/test-seen", "all files"), "conditions": conditions(1, "cpu")}
    rows = list(measure_baselines(map, clips, RATE))
    write_json([facts | {"baselines": rows}], folder / "baselines.json")
    ours = [
        {**rows[i], "system": f"spectral.x, {i + 1} codebooks", "family": "spectral.x", "kbps": {"payload": i + 0.5}}
        for i in range(2)
    ]
    write_json(facts | {"rows": ours, "baselines": []}, folder / "codec.json")
    return rows, [folder / "codec.json", folder / "baselines.json"]


def test_ogg_packets_are_counted_without_pages():
    """Packets of 3, 255, 510 + 10 (over two pages) and 7 bytes, laid out by hand as RFC 3533 says."""

    def page(lacing: list[int]) -> bytes:
        head = b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, 1, 0, 0, len(lacing))
        return head + bytes(lacing) + bytes(sum(lacing))

    assert ogg_packets(page([3, 255, 0, 255]) + page([255, 10, 7])) == [3, 255, 520, 7]
    with pytest.raises(ValueError, match="no Ogg page at byte 0"):
        ogg_packets(b"RIFF....")


def test_opus_bits_are_those_of_its_packets(clips):
    """At a hard rate the payload is known: here VBR, so only that file = payload + headers, and more bits are more."""
    low, high = (opus(clips[0], RATE, bitrate, 20) for bitrate in (8, 24))
    assert 500 < low.file_bytes - low.packet_bytes < 1600  # header, tags with 512 bytes of padding, page headers
    assert high.packet_bytes > 2 * low.packet_bytes
    assert abs(len(low.audio) - clips[0].seconds * RATE) <= 1


def test_fitted_opus_comes_near_the_real_bitrate_asked_for(clips):
    bitrate, coded = fit_opus(map, clips, RATE, 60, 9.0)
    real = sum(one.packet_bytes for one in coded) * 8 / clips[0].seconds / 1000
    assert real == pytest.approx(9.0, rel=0.08)
    assert coded[0].packet_bytes == opus(clips[0], RATE, bitrate, 60).packet_bytes


def test_codec2_takes_its_bits(clips):
    """3200 bit/s for 2.5 s are 1000 bytes (8 bytes each 20 ms)."""
    assert codec2(clips[0], RATE, 3200).packet_bytes == 1000


def test_the_delay_of_a_vocoder_is_found_by_its_envelope(report):
    """Codec2 3200 delays by some 19 ms (there STOI is best on real speech); its waveform says 4 ms here."""
    row = next(row for row in report[0] if row["system"] == "Codec2 3200")
    assert 240 <= row["delay_samples"] <= 360


def test_one_clip_does_not_move_a_delay_on_which_most_agree():
    assert common_delay([(7, 5), (7, 15), (7, 20), (400, 20)], RATE) == 7
    assert common_delay([(-300, 290), (10, 300), (150, 300), (400, 310)], RATE) == 300


def test_every_baseline_has_its_row(report):
    rows, _ = report
    assert len(rows) == BASELINES == len({row["system"] for row in rows})
    by_name = {row["system"]: row for row in rows}
    assert by_name["4 kHz low-pass"]["kbps"] is None
    assert by_name["Codec2 3200"]["kbps"]["payload"] == pytest.approx(3.2, abs=0.01)
    pesq = {name: row["metrics"]["pesq_wb"]["mean"] for name, row in by_name.items()}
    assert pesq["Opus near 12 kbps, 20 ms frames"] > pesq["Opus near 6 kbps, 20 ms frames"] > 1


def test_missing_programs_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="opusenc, opusdec, c2enc, c2dec: apt install opus-tools codec2"):
        require_tools()


def test_the_table_joins_results_on_the_same_clips(report):
    rows, files = report
    table = card_table(read(files))
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert "test-seen: kbps | PESQ-wb | STOI" in lines[0] and lines[0].count("kbps |") == 1
    assert lines[1].startswith("| spectral.x, 1 codebooks | 0.50 |") and len(lines) == 1 + 2 + BASELINES
    stoi = next(row for row in rows if row["system"] == "Codec2 3200")["metrics"]["stoi"]["mean"]
    assert "| Codec2 3200 | 3.20 | " in table and f"| {stoi:.3f} |" in table
    assert "1 clips, 2 s" in table and "cores, torch" in table


def test_the_plot_is_a_small_png(report, tmp_path):
    draw(read(report[1]), tmp_path / "rates.png")
    data = (tmp_path / "rates.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) < 100_000
