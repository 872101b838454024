"""What a round costs is split into passes of the target, passes of drafts, and all else."""

import json

import pytest
import torch

from zoo.bench_rounds import WAYS, Shape, bench_rounds
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.side_by_side import SideBySide
from zoo.decoders.transformer import TransformerConfig
from zoo.pass_clock import pass_clock


def config(axes: int = 1, cards: tuple[int, ...] = (11,)) -> AutoregressiveConfig:
    return AutoregressiveConfig(cards, TransformerConfig(16, 1, 2, axes=axes), context=256)


def test_each_way_of_each_shape_is_told(tmp_path):
    shapes = {
        "text": Shape(config(), config()),
        "picture": Shape(config(axes=2), config(), streams=(2.0, -1.0), grid=6),
        "music": Shape(config(cards=(7, 7)), config(cards=(7, 7))),
    }
    result = bench_rounds(tmp_path / "rounds.json", shapes=shapes, prompt=4, rounds=3, repeats=2)
    assert [(row["shape"], row["way"]) for row in result["rows"]] == [(name, way) for name in shapes for way in WAYS]
    for row in result["rows"]:
        assert row["target_ms"] > 0 and row["else_ms"] > 0 and row["overhead"] > 0
        assert (row["drafts_ms"] > 0) == ("draft model" in row["way"])
    assert json.loads((tmp_path / "rounds.json").read_text()) == result


class Busy(AutoregressiveDecoder):
    """A pass of it takes so many seconds of the clock on the wall."""

    seconds = 0.0
    wall = 0.0

    def run(self, *args):
        Busy.wall += self.seconds
        return super().run(*args)


def test_a_clock_tells_passes_of_the_target_from_others_and_counts_those_within_others_once(monkeypatch):
    monkeypatch.setattr("zoo.pass_clock.time.process_time", lambda: Busy.wall)
    target, other, inner = (Busy(config()).eval() for _ in range(3))
    target.seconds, other.seconds, inner.seconds = 5.0, 2.0, 3.0
    tokens = torch.zeros(1, 2, 1, dtype=torch.int64)
    with torch.no_grad(), pass_clock(target) as clock:
        for model in (target, other, SideBySide(inner), target):
            model(tokens)
            Busy.wall += 100.0  # between passes
    assert (clock.target, clock.drafts) == (10.0, 5.0)
    target(tokens)
    assert clock.target == 10.0


def test_a_clock_leaves_no_trace_behind_even_if_a_pass_fails():
    forward = TokenModel.forward
    with pytest.raises(ValueError, match="codebooks"), pass_clock(AutoregressiveDecoder(config()).eval()):
        AutoregressiveDecoder(config()).eval()(torch.zeros(1, 2, 3, dtype=torch.int64))
    assert TokenModel.forward is forward
