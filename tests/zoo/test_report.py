"""Tables and curves of evaluations: real rates, what has no score, several data sets side by side."""

from __future__ import annotations

import math
from io import StringIO

import matplotlib.axes
import pytest
from PIL import Image
from rich.console import Console

from zoo.codecs.errors import UserError
from zoo.evaluate_pictures import PACKAGES
from zoo.picture_baselines import libraries
from zoo.recipes.metrics import Score
from zoo.report import card_table, draw, read, terminal_table, write_card
from zoo.scoring import conditions, summary, write_json


def row(system: str, family: str, bpp: float, psnr: list[float]) -> dict:
    """A row of two pictures; NaN is a picture without a score."""
    scores = [Score(value, "too small" if math.isnan(value) else "") for value in psnr]
    metrics = {
        "psnr": summary(scores, 0),
        "ms_ssim": summary([Score(value / 100) for value in (91, 93)], 0),
        "contrast": summary([Score(value / 100) for value in (11, 13)], 0),
    }
    return {"system": system, "family": family, "setting": "", "bpp": {"file": bpp}, "metrics": metrics}


def result(side: int, codec: str = "photos") -> dict:
    """What a codec of two rates gave on pictures of that side, beside JPEG, which cannot go as low on one picture."""
    rows = [row(f"{codec}, {bpp} bpp", codec, bpp - 0.001, [25 + bpp, 27 + bpp]) for bpp in (0.2, 0.4)]
    speed = {"encode": 1.234, "decode": 5.678, "unit": "megapixels/s"}
    return {
        "codec": {"name": codec},
        "data": {
            "source": f"photographs/{side}", "pictures": 2, "size": f"{side} x {side}",
            "megapixels": 2 * side**2 / 1e6, "sha256": f"{side:064}",
        },
        "conditions": conditions(1, "cpu", PACKAGES) | {"libraries": libraries()},
        "rows": [one | {"speed": speed} for one in rows],
        "baselines": [
            row(f"JPEG at the bits of {codec}, 0.2 bpp", "JPEG", 0.199, [math.nan, 24.0]),
            row(f"JPEG at the bits of {codec}, 0.4 bpp", "JPEG", 0.399, [24.0, 26.0]),
        ],
    }  # fmt: skip


def recordings() -> dict:
    metrics = {name: summary([Score(2.0), Score(3.0)], 0) for name in ("pesq_wb", "stoi")}
    data = {"source": "speech", "clips": 2, "seconds": 5.0, "rule": "all", "sha256": "0"}
    one = {"system": "a", "family": "a", "kbps": {"payload": 1.0}, "metrics": metrics}
    return {"codec": {"name": "a"}, "data": data, "conditions": conditions(1, "cpu"), "rows": [one], "baselines": []}


def test_a_card_lists_systems_by_rate_and_data_sets_side_by_side(tmp_path):
    write_card([result(256), result(512)], tmp_path / "card.md")
    lines = (tmp_path / "card.md").read_text().splitlines()
    columns = "bpp | PSNR dB | MS-SSIM | contrast distance"
    assert lines[0] == f"| system | 256: {columns} | 512: {columns} |"
    assert lines[1] == "|---|" + 8 * "---:|"
    assert lines[2].startswith("| photos, 0.2 bpp | 0.199 | 26.20 | 0.9200 | 0.1200 | 0.199 | 26.20 |")
    assert [line.split(" |")[0] for line in lines[3:6]] == [
        "| JPEG at the bits of photos, 0.2 bpp", "| photos, 0.4 bpp", "| JPEG at the bits of photos, 0.4 bpp",
    ]  # fmt: skip
    assert "256: 2 pictures, 256 x 256 pixels, 0.13 megapixels." in lines
    text = "\n".join(lines)
    assert "header and all" in text and f"libwebp {libraries()['libwebp']}" in text and "pesq" not in text


def test_a_card_says_how_many_pictures_a_mean_is_of():
    jpeg = card_table([result(256)]).splitlines()[3]
    assert "| 0.199 | 24.00 (1 of 2) | 0.9200 |" in jpeg


def test_codecs_on_the_same_pictures_share_a_data_set():
    lines = card_table([result(256), result(256, "other")]).splitlines()
    assert lines[0].count("bpp") == 1
    assert sum(line.startswith("| ") for line in lines) == 1 + 2 * 4


def test_a_system_that_one_data_set_lacks_has_empty_cells():
    second = result(512)
    second["baselines"] = []
    jpeg = next(line for line in card_table([result(256), second]).splitlines() if line.startswith("| JPEG"))
    assert jpeg.endswith("| 0.1200 |  |  |  |  |")


def test_recordings_and_pictures_are_not_compared():
    with pytest.raises(UserError, match="clips and pictures cannot be compared"):
        card_table([result(256), recordings()])


def test_the_terminal_shows_rates_scores_with_intervals_and_speed():
    text = StringIO()
    Console(file=text, width=160).print(terminal_table(result(256)))
    first, second = [line for line in text.getvalue().splitlines() if line.startswith("│")][:2]
    cells = [cell.strip() for cell in first.split("│")[1:-1]]
    assert cells == ["photos, 0.2 bpp", "0.199", "26.20 ± 1.00", "0.9200 ± 0.0100", "0.1200 ± 0.0100", "1.23", "5.68"]
    assert "24.00 ± 0.00 (1 missing)" in second


def test_curves_run_over_the_measured_rate_in_a_row_of_panels_for_each_data_set(tmp_path, monkeypatch):
    curves: list[tuple] = []
    curve = matplotlib.axes.Axes.errorbar

    def spy(axes, x, y, bars=None, **options):
        curves.append((axes.get_subplotspec().rowspan.start, options["label"], list(x), list(y), bars))
        return curve(axes, x, y, bars, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", spy)
    found = result(256)
    found["rows"].reverse()
    draw([found, result(512)], tmp_path / "rates.png")
    assert len(curves) == 2 * 3 * 2  # data sets, metrics, systems
    assert curves[0] == (0, "photos", [0.199, 0.399], [26.2, 26.4], None)
    assert curves[1] == (0, "JPEG", [0.399], [25.0], None)  # at .199 it has but one of the two pictures
    assert curves[3] == (0, "JPEG", [0.199, 0.399], [0.92, 0.92], None)
    assert {place for place, *_ in curves} == {0, 1}
    assert Image.open(tmp_path / "rates.png").size == (1012, 480)  # of 13.5 x 6.4 inches


@pytest.mark.parametrize("ending", ["svg", "pdf", "PNG"])
def test_the_ending_chooses_the_format(ending, tmp_path):
    draw([recordings()], tmp_path / f"a.{ending}")
    start = {"svg": b"<?xml", "pdf": b"%PDF", "PNG": b"\x89PNG"}[ending]
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize(("name", "message"), [("a.txt", "ends in .png, .svg, .pdf"), ("no/a.png", "create it first")])
def test_a_plot_that_cannot_be_written_is_refused_before_it_is_drawn(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        draw([], tmp_path / name)


def test_files_hold_one_result_or_several(tmp_path):
    write_json(recordings(), tmp_path / "one.json")
    write_json([recordings(), recordings()], tmp_path / "two.json")
    assert len(read([tmp_path / "one.json", tmp_path / "two.json"])) == 3
