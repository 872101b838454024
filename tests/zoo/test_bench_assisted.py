"""The benchmark of assisted generation drafts the same in both libraries and counts what it takes."""

from __future__ import annotations

import json

import pytest
import torch
from small_generators import answering, core, picture_decoder
from typer.testing import CliRunner

from zoo import checkpoint
from zoo.bench_assisted import DRAFTINGS, PLAIN, RULES, bench_assisted, copied, drafted, gap
from zoo.bench_decoders import THEIRS
from zoo.cli import app
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.layouts import Parallel
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

SIDES = [f"{side}{weights}" for side in (THEIRS, "ours") for weights in ("", ", bfloat16")]
ITEMS, STEPS = 2, 16
EXACT = (THEIRS, "ours")  # bfloat16 may accept less of what float32 drafts


def text_model(width, seed):
    """Of bytes, in a shape that transformers has."""
    vocabulary = Vocabulary()
    config = AutoregressiveConfig((vocabulary.card,), core(width), 96)
    return answering(AutoregressiveDecoder(config), TokenFacts(Parallel(config.cards), vocabulary), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoint.save(text_model(16, 0), folder / "target")
    checkpoint.save(text_model(8, 1), folder / "draft")
    checkpoint.save(picture_decoder(), folder / "picture")
    return folder


def ways(folder, draft, *draftings, **options):
    """Of each drafting and temperature; the first drafting is none."""
    options = dict(items=ITEMS, steps=STEPS) | options
    result = bench_assisted(
        str(folder / "target"), str(folder / draft), draftings=(DRAFTINGS[0], *draftings), **options
    )
    return result, {(row["drafting"], row["temperature"]): row["ways"] for row in result["rows"]}


def test_every_task_is_done_by_both_libraries_and_states_speeds_passes_and_conditions(folder, tmp_path, capsys):
    path, threads = tmp_path / "bench.json", torch.get_num_threads()
    result, found = ways(folder, "draft", *DRAFTINGS[1:], output=path, as_json=True, items=2, steps=6)
    assert torch.get_num_threads() == threads
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == result
    assert {"command", "hardware", "versions", "date", "seed", "what", "prompts"} <= result.keys()
    assert result["versions"]["transformers"] and result["versions"]["torch"]
    assert list(found) == [(drafting.name, heat) for heat in (0.0, 0.8) for drafting in DRAFTINGS]
    for (name, temperature), sides in found.items():
        assert set(SIDES) <= set(sides) and sides[THEIRS]["ratio"]["cpu"] == [1, 1, 1]
        judged = temperature > 0 and name.startswith("draft model")
        assert [f"ours, {rule}" in sides for rule in RULES[1:]] == [judged] * 2
        for way in sides.values():
            for kind in ("wall", "cpu"):
                for middle, least, most in (way["ratio"][kind], way["of_plain"][kind]):
                    assert 0 < least <= middle <= most
                assert way[f"tokens_per_{kind}_second"] == 6 / way[kind]
            assert way["tokens_a_pass"] == 2 * 6 / way["passes"]


def test_greedy_tokens_are_those_of_plain_decoding_whatever_drafts(folder, capsys):
    _, found = ways(folder, "draft", *DRAFTINGS[1:], temperatures=(0.0,))
    for sides in found.values():
        for side, way in sides.items():
            if "bfloat16" not in side:
                assert way["same_tokens"] == 1 and way["gap"] is None
            assert (way["gap"] is None) == (way["same_tokens"] == 1)
    assert "tokens / pass" in capsys.readouterr().out


def test_what_the_rule_equal_samples_is_what_we_sample_without_drafts(folder, capsys):
    _, found = ways(folder, "draft", drafted(3), copied(5), temperatures=(0.8,))
    for (name, _), sides in found.items():
        assert sides["ours"]["same_tokens"] == 1
        assert not any("same_tokens" in sides[side] for side in sides if side.startswith(THEIRS))
        assert ("ours, block" in sides) == name.startswith("draft") and "same_tokens" not in sides.get(
            "ours, block", {}
        )


def test_a_target_that_drafts_for_itself_is_right_all_the_time(folder, capsys):
    _, found = ways(folder, "target", drafted(3), temperatures=(0.0, 0.8))
    for temperature in (0.0, 0.8):
        plain, drafts = found[PLAIN, temperature], found["draft model, 3 tokens", temperature]
        for side in EXACT:
            prompt = side == "ours"  # which is read in a pass of its own; theirs is read with the first draft
            assert plain[side]["passes"] == ITEMS * (STEPS + prompt) and plain[side]["draft_passes"] == 0
            # A round gives three tokens of the draft and one of the target, but where their draft model samples: it
            # applies the temperature twice.
            if side == "ours" or not temperature:
                assert drafts[side]["passes"] == ITEMS * (STEPS // 4 + prompt)
                assert drafts[side]["draft_passes"] == ITEMS * STEPS // 4 * 3


def test_the_number_of_drafted_tokens_reaches_both_libraries(folder, capsys):
    _, found = ways(folder, "target", drafted(1), drafted(7), temperatures=(0.0,))
    for tokens, rounds in ((1, STEPS // 2), (7, STEPS // 8)):
        sides = found[f"draft model, {tokens} tokens", 0.0]
        assert [sides[side]["passes"] for side in EXACT] == [ITEMS * rounds, ITEMS * (rounds + 1)]


@torch.no_grad()
def test_a_gap_is_that_of_the_best_two_logits_where_texts_part():
    model, prompt, expected = text_model(16, 0), torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10, 11]])
    other = torch.tensor([[8, 9, 12, 13]])
    assert gap(model, [prompt], [expected], [expected]) is None
    logits = model(torch.tensor([[5, 6, 7, 8, 9]])[..., None], torch.arange(5)[None], model.init_state(1, 5)).logits
    best = logits[0, -1, 0].sort(descending=True).values
    assert gap(model, [prompt] * 2, [expected] * 2, [expected, other]) == pytest.approx(float(best[0] - best[1]))


def test_models_that_do_not_fit_are_refused(folder):
    with pytest.raises(UserError, match="the decoder .*picture is of another layout"):
        bench_assisted(str(folder / "target"), str(folder / "picture"))
    with pytest.raises(UserError, match="is no language model but"):
        bench_assisted(str(folder / "picture"), str(folder / "draft"))


def test_the_command_takes_model_and_draft(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("zoo.bench_assisted.bench_assisted", lambda *args, **options: asked.append((args, options)))
    done = CliRunner().invoke(
        app, ["bench", "assisted", "one", "--draft", "two", "--items", "3", "--seed", "4", "--json"]
    )
    assert done.exit_code == 0 and asked == [(("one", "two", None, 4, True), {"items": 3})]
