"""The picture of the sampling benchmark: a panel for each decoder, with every method in its place."""

from __future__ import annotations

import sys

import pytest
from command_line import one_line
from PIL import Image

from zoo import cli
from zoo.bench_sampling_plot import draw, figure_of, recorded, short
from zoo.codecs.errors import UserError
from zoo.scoring import write_json

FAST = ("draft:a.b-draft, window 3", "identical", 2.5, [1.6, 1.2, 2.0], 2.1)
METHODS = [
    ("one step at a time", "identical", 1.0, [1.0, 1.0, 1.0], 1.0),
    FAST,
    ("draft:a.b-draft, window 5, block", "distribution", 3.0, [1.5, 0.9, 1.8], 1.9),
    ("jacobi, window 5", "identical", 1.2, [0.4, 0.3, 0.5], 0.6),
    ("draft:a.b-draft, window 5, lenient", "approximate", 4.0, [1.9, 1.7, 2.2], 2.6),
]


def method(name, exactness, steps, ratio, expected):
    found = {"method": name, "exactness": exactness, "steps_a_pass": steps, "ratio": {"wall": ratio, "cpu": ratio}}
    return found if expected is None else found | {"expected": expected}


def result():
    causal = {"decoder": "a.b", "temperature": 0.8, "guidance": 1.0, "methods": [method(*each) for each in METHODS]}
    masked = {"decoder": "c.d", "temperature": 1.0, "guidance": 2.0}
    masked["methods"] = [method(*each[:4], None) for each in METHODS[:3]]  # no cost model for these
    facts = {"items": 4, "weights": "bfloat16", "date": "2026-11-22T00:00:00", "hardware": {"cpu": "a processor"}}
    return facts | {"rows": [causal, masked]}


def points(axes, label):
    """Where the marks of that label are."""
    lines = [line for line in axes.lines if line.get_label() == label]
    lines += [group.lines[0] for group in axes.containers if group.get_label() == label]
    return {tuple(point) for line in lines for point in line.get_xydata().tolist()}


def test_every_method_is_in_the_panel_of_its_decoder_by_its_exactness():
    causal, masked = figure_of(result()).axes[:2]
    for axes, methods in ((causal, METHODS), (masked, METHODS[:3])):
        for exactness in ("identical", "distribution", "approximate"):
            assert points(axes, exactness) == {(each[2], each[3][0]) for each in methods if each[1] == exactness}
    assert causal.get_title() == "a.b\ntemperature 0.8" and masked.get_title() == "c.d\ntemperature 1, guidance 2"


def test_what_fills_in_otherwise_has_a_mark_of_its_own_whatever_it_declares():
    """Identical to its own process is not the same output as that of the first method."""
    found = result()
    other = method("as many, entropy", "identical", 3.0, [2.0, 2.0, 2.0], None) | {"another_process": True}
    found["rows"][1]["methods"].append(other)
    masked = figure_of(found).axes[1]
    assert points(masked, "another process") == {(3.0, 2.0)} and (3.0, 2.0) not in points(masked, "identical")


def test_bars_reach_from_the_least_to_the_largest():
    (group,) = [each for each in figure_of(result()).axes[0].containers if each.get_label() == "approximate"]
    (bar,) = group.lines[2][0].get_segments()
    assert bar.flatten().tolist() == pytest.approx([4.0, 1.7, 4.0, 2.2])


def test_what_passes_alone_would_bring_is_joined_to_what_was_measured():
    causal, masked = figure_of(result()).axes[:2]
    assert points(causal, "expected") == {(each[2], each[4]) for each in METHODS} and not points(masked, "expected")
    bars = [bar for group in causal.containers for bar in group.lines[2]]
    joins = [line for lines in causal.collections if lines not in bars for line in lines.get_segments()]
    assert sorted(line.tolist() for line in joins) == sorted(
        [[each[2], each[3][0]], [each[2], each[4]]] for each in METHODS
    )


def test_the_three_fastest_are_named_without_their_models():
    named = {text.get_text() for text in figure_of(result()).axes[0].texts}
    assert named == {"draft, window 3", "draft, window 5, block", "draft, window 5, lenient"}
    assert short("suffix-automaton:shortest=3+draft:a.b, window 6") == "suffix-automaton+draft, window 6"
    assert short("jacobi:last, window 16") == "jacobi:last, window 16"


def test_all_points_lie_inside_their_panel_below_the_names():
    axes = figure_of(result()).axes[0]
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    for _, _, steps, (_, least, largest), expected in METHODS:
        assert left < steps < right and low < least and max(largest, expected) < high


def test_a_recorded_result_is_drawn_without_measuring(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zoo.bench_sampling", None)
    file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    write_json(result(), file)
    assert cli.main(["bench", "sampling", "--from", str(file), "--plot", str(picture)]) == 0
    shades = Image.open(picture).convert("L").getextrema()
    assert recorded(file) == result() and shades[0] < 80 < 240 < shades[1]


def test_a_run_is_drawn_when_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.bench_sampling.bench_sampling", lambda *given, **options: result())
    assert cli.main(["bench", "sampling", "--plot", str(tmp_path / "bench.svg")]) == 0
    assert (tmp_path / "bench.svg").read_text().count("<path") > 50


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zoo.bench_sampling", None)
    assert "ends in .png, .svg, .pdf" in one_line(capsys, "bench", "sampling", "--plot", tmp_path / "bench.txt")


@pytest.mark.parametrize("content", [None, "[]", '{"rows": []}', '{"rows": [{"encode": 1}]}', '{"rows": 3}'])
def test_other_files_are_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match="is no result of this benchmark; zoo bench sampling -o .*a.json makes one"):
        recorded(tmp_path / "a.json")


def test_a_recorded_result_needs_a_place_and_takes_no_orders(tmp_path, capsys):
    assert "say where to draw" in one_line(capsys, "bench", "sampling", "--from", "a.json")
    given = ("bench", "sampling", "--from", "a.json", "--plot", tmp_path / "a.png", "--method", "jacobi")
    assert "method means nothing for a result that is already there" in one_line(capsys, *given)


def test_without_matplotlib_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"need matplotlib, .* pip install 'media-token-zoo\[bench\]'"):
        draw(result(), tmp_path / "a.png")
