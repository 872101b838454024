"""`zoo evaluate` measures what it says: real bits, aligned scores, levels, codebook use, reproducibly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pytest
import soundfile
import torch

from zoo.codecs.base import AudioCodec, CodecInfo, CodecOutput
from zoo.codecs.errors import UserError
from zoo.evaluate import evaluate
from zoo.recipes.metrics import Score
from zoo.report import terminal_table
from zoo.scoring import select, summary

RATE = 16000


@dataclass(frozen=True)
class StepsConfig:
    delay: int = 0


class Steps(AudioCodec):
    """Each sample in two 8-bit codebooks, coarse and fine: a codec simple enough to know its every figure."""

    config_class = StepsConfig

    def __init__(self, config: StepsConfig = StepsConfig()) -> None:
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(1))

    @property
    def info(self) -> CodecInfo:
        return CodecInfo("audio", RATE, 1, 1, (256, 256), True, 0, 1)

    def encode_rows(self, media, codebooks, scales, search=None):
        whole = ((media[:, 0] + 1) * 32767.5).round().long().clamp(0, 65535)
        return torch.stack([whole // 256, whole % 256], 1)[:, :codebooks], None

    def decode_rows(self, codes, scales):
        fine = codes[:, 1] if codes.shape[1] == 2 else torch.full_like(codes[:, 0], 128)
        media = (codes[:, 0] * 256 + fine)[:, None] / 32767.5 - 1
        return torch.nn.functional.pad(media, (self.config.delay, 0))[..., : codes.shape[-1]]

    def forward(self, media, codebooks=None, quantize=True):
        return CodecOutput(media * self.weight, media.new_zeros(()), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three recordings of voiced bursts, 2 to 3 s, and one of .1 s that no metric of speech can take."""
    root = tmp_path_factory.mktemp("clips")
    for index, seconds in enumerate([2.0, 2.5, 3.0, 0.1]):
        time = np.arange(int(seconds * RATE)) / RATE
        noise = np.random.default_rng(index).standard_normal(len(time))
        voice = np.sin(2 * np.pi * (120 + 30 * index) * time) + 0.5 * np.sin(2 * np.pi * 900 * time) + 0.3 * noise
        (root / f"voice{index % 2}").mkdir(exist_ok=True)
        bursts = np.sin(2 * np.pi * 1.5 * time + 0.1) > 0
        soundfile.write(root / f"voice{index % 2}" / f"{index}.wav", 0.1 * voice * bursts, RATE)
    return root


@pytest.fixture(scope="module")
def result(folder):
    return evaluate(Steps(), folder, levels=[-20.0, 0.0], processes=1, progress=False)


def test_each_rate_has_the_bitrate_of_its_file(result, folder):
    one, two = result["rows"]
    assert (one["codebooks"], two["codebooks"]) == (1, 2)
    # 8 bits a sample and codebook, no more and no less; the file adds blocks' checks and a header to each clip.
    assert one["kbps"]["payload"] == pytest.approx(128) and two["kbps"]["payload"] == pytest.approx(256)
    assert two["kbps"]["computed"] == 256 < two["kbps"]["file"] < 262


def test_finer_codes_score_better_and_near_perfect(result):
    one, two = (row["metrics"] for row in result["rows"])
    assert one["pesq_wb"]["mean"] < two["pesq_wb"]["mean"] and two["pesq_wb"]["mean"] > 4.5
    assert one["mel_distance"]["mean"] > two["mel_distance"]["mean"]
    assert two["pesq_wb"]["low"] <= two["pesq_wb"]["mean"] <= two["pesq_wb"]["high"]


def test_clips_without_a_score_are_counted_with_their_reason(result):
    pesq = result["rows"][0]["metrics"]["pesq_wb"]
    assert (pesq["clips"], pesq["missing"]) == (3, 1)
    assert list(pesq["reasons"].values()) == [1] and "second" in next(iter(pesq["reasons"]))


def test_levels_tell_a_codec_that_depends_on_the_level(result):
    quiet, same = result["levels"]
    assert same["equal_codes"] == 1 and same["clips_with_all_codes_equal"] == 4
    assert quiet["decibels"] == -20 and quiet["equal_codes"] < 0.9  # this codec has no gain
    assert same["pesq_wb"]["mean"] == result["rows"][1]["metrics"]["pesq_wb"]["mean"]


def test_codebook_figures_are_those_of_the_histogram(result, folder):
    samples = np.concatenate([soundfile.read(path)[0] for path in sorted(folder.rglob("*.wav"))])
    coarse = np.round((samples + 1) * 32767.5).astype(int) // 256
    share = np.bincount(coarse) / len(coarse)
    share = share[share > 0]
    book = result["codebooks"][0]
    assert book["codes"] == len(samples) and book["used"] == pytest.approx(len(share) / 256, abs=1e-4)
    assert book["entropy_bits"] == pytest.approx(-(share * np.log2(share)).sum(), abs=0.01)
    assert book["perplexity"] == pytest.approx(2 ** book["entropy_bits"], rel=1e-3)


def test_a_codecs_delay_is_not_distortion(result, folder):
    late = evaluate(Steps(StepsConfig(delay=300)), folder, [2], processes=1, progress=False)["rows"][0]
    assert late["delay_samples"] == 300 and result["rows"][1]["delay_samples"] == 0
    assert late["metrics"]["si_sdr"]["mean"] > 40  # unaligned it is below 0 dB


def test_processes_change_nothing_but_the_speed(result, folder, tmp_path):
    found = evaluate(Steps(), folder, [1, 2], processes=2, json_file=tmp_path / "found.json", progress=False)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    for row, other in zip(found["rows"], result["rows"], strict=True):
        assert {**row, "speed": 0} == {**other, "speed": 0}
    assert found["data"] == result["data"] and found["codebooks"] == result["codebooks"]


def test_the_conditions_are_stated(result):
    conditions = result["conditions"]
    assert conditions["hardware"]["cpu"] and conditions["hardware"]["cores"] >= 1
    assert torch.__version__.startswith(conditions["versions"]["torch"]) and conditions["threads_per_process"] == 1
    assert conditions["date"][:2] == "20" and conditions["command"]


def test_the_table_has_a_row_for_each_rate_and_a_column_for_each_metric(result):
    table = terminal_table(result)
    assert table.row_count == 2
    assert [str(column.header) for column in table.columns] == [
        "system", "kbps", "file kbps", "PESQ-wb", "STOI", "SI-SDR dB", "mel distance", "encode x", "decode x",
    ]  # fmt: skip
    assert list(table.columns[1].cells) == ["128.00", "256.00"]
    assert all(cell.endswith("(1 missing)") for cell in table.columns[3].cells)


def test_the_callers_codec_is_left_as_it_was(folder):
    codec = Steps().train()
    evaluate(codec, folder / "voice0" / "0.wav", [1], processes=1, progress=False)
    assert codec.training


def test_the_choice_of_clips_depends_on_names_alone_and_prefers_usual_lengths(tmp_path):
    """Ten files of 2.1 s and twenty of .1 s under two names of the folder: only long ones, by the hash of the name."""
    for root in ("one", "two"):
        (tmp_path / root / "speaker").mkdir(parents=True)
        for index in range(30):
            samples = np.zeros(2100 if index % 3 == 0 else 100)
            soundfile.write(tmp_path / root / "speaker" / f"{index:02}.wav", samples, 1000)
    usual = [f"speaker/{index:02}.wav" for index in range(0, 30, 3)]
    expected = sorted(sorted(usual, key=lambda name: sha256(name.encode()).hexdigest())[:4])
    for root in ("one", "two"):
        chosen, rule = select(tmp_path / root, 4)
        assert [clip.name for clip in chosen] == expected != usual[:4]
    assert "2 to 8 s" in rule and "first 4" in rule
    assert len(select(tmp_path / "one", 20)[0]) == 20 and len(select(tmp_path / "one")[0]) == 30


@pytest.mark.parametrize(
    "data, codebooks, message",
    [("nowhere", None, "no such file"), ("empty", None, "no audio found"), ("voice0", [3], "1 to 2 codebooks")],
)
def test_bad_requests_are_one_clear_error(data, codebooks, message, folder):
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        evaluate(Steps(), folder / data, codebooks, processes=1, progress=False)


def test_the_interval_covers_the_mean_of_the_population():
    """95 % of intervals should hold the true mean; of 200 at least 180 do (five sigma below would be 175)."""
    random = np.random.default_rng(0)
    found = [summary([Score(value) for value in random.normal(3, 1, 40)], seed=1) for _ in range(200)]
    assert 180 <= sum(one["low"] <= 3 <= one["high"] for one in found) < 200


def test_a_summary_of_nothing_is_no_number():
    found = summary([Score(math.nan, "silent"), Score(math.nan, "silent")], seed=0)
    assert found["mean"] is None and found["missing"] == 2 and found["reasons"] == {"silent": 2}
