"""A decoder is trained, resumed, taught, looked at, and becomes a model that `zoo.load` takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_decoder_recipe import QUICK, SIZES, Repeats, conditioned, decoder, fit

import zoo
from zoo.cli import main
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.sampling import decode
from zoo.recipes import preview
from zoo.recipes.cli import train
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.preview import Preview
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

SMOKE = "autoregressive.text-smoke"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(SMOKE, [f"--run.folder={folder}"])


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "text"
    convert(run / "last.ckpt", folder)
    return folder


def state(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_says_how_fast_and_how_well_it_learns(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "steps_per_second" in line]
    assert [line["step"] for line in trained] == [5, 10, 15, 20]
    assert trained[-1]["loss/cross_entropy"] < trained[0]["loss/cross_entropy"]
    # 4 windows of 128 tokens, the first of which is not foretold
    assert trained[0]["tokens_per_second"] == pytest.approx(4 * 127 * trained[0]["steps_per_second"])
    assert trained[0]["padding"] == 0 and trained[0]["loss/gradient"] > 0
    valid = [line for line in lines if "valid/bits/byte" in line]
    assert [line["step"] for line in valid] == [10, 20]
    assert valid[-1]["valid/bits/code"] == pytest.approx(
        valid[-1]["valid/cross_entropy/codebook 0"] / 0.693147, rel=1e-5
    )


def test_text_is_shown_as_it_goes_on(run):
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert set(texts) == {"clip 0/target/text_summary", "clip 0/sample/text_summary"}
    assert [event.step for event in texts["clip 0/sample/text_summary"]] == [10, 20]
    target, sample = (events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in sorted(texts, reverse=True))
    assert target.partition("⏵")[0] == sample.partition("⏵")[0] and target != sample


@pytest.mark.slow
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(run, tmp_path, monkeypatch):
    def power_cut(recipe, batch, index):
        raise RuntimeError("power cut")

    folder = tmp_path / "parts"
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(DecoderRecipe, "validation_step", power_cut)  # at step 10, in the middle of an epoch of 14
        train(SMOKE, [f"--run.folder={folder}"])
    train(SMOKE, [f"--run.folder={folder}"], resume=True)
    torch.testing.assert_close(state(folder), state(run), rtol=0, atol=0)


def test_a_run_becomes_a_model_with_its_tokens(run, model):
    found, saved = zoo.load(model), state(run)
    assert not found.training and found.tokens == TokenFacts(Parallel((257,)), Vocabulary())
    tokens = torch.tensor(found.tokens.vocabulary.encode("The import statement"))[None, :, None]
    averaged = {name.removeprefix("average.module."): saved[name] for name in saved if name.startswith("average.mod")}
    torch.testing.assert_close(found.state_dict(), averaged, rtol=0, atol=0)
    assert decode(found, tokens, 8).codes.shape == (1, 8, 1)
    assert found.heads.product.weight is found.embedding.table.weight
    stored = safetensors.torch.load_file(model / "model.safetensors")
    assert "heads.product.weight" not in stored  # tied: once is enough
    assert zoo.create("autoregressive", cards=[5], transformer={"width": 8, "layers": 1, "heads": 1}).info.cards == (5,)


def test_a_decoder_of_recurrent_depth_is_trained_by_its_name_and_keeps_several_steps_in_flight(tmp_path):
    """Three layers, of which the middle one runs three times; with one step in flight a pass makes one of its loops."""
    run = train("autoregressive.text-looped-smoke", [f"--run.folder={tmp_path}/run"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/cross_entropy"] for line in lines if "loss/cross_entropy" in line]
    bits = [line["valid/bits/byte"] for line in lines if "valid/bits/byte" in line]
    assert losses[-1] < losses[0] and bits[-1] < bits[0]
    convert(run / "last.ckpt", tmp_path / "model")
    found = zoo.load(tmp_path / "model")
    assert found.info.layers == 5 and len(found.transformer.layers) == 3
    asked = dict(prompt="The import", steps=12, temperature=0)
    one, more = (zoo.generate(found, wavefront=window, **asked) for window in (1, 4))
    assert more.facts()["passes"] < one.facts()["passes"] and more.facts()["exactness"] == "approximate"
    assert zoo.generate(found, proposer="early-exit:4", **asked).text == zoo.generate(found, **asked).text


def test_zoo_info_says_what_a_decoder_is(model, capsys):
    assert main(["info", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"]["kind"] == "Parallel" and facts["text"] == "257 tokens" and facts["context"] == 128
    assert main(["info", str(model)]) == 0


def test_a_decoder_is_no_codec(model, tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"")
    assert main(["tokenize", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.ztok"), "--model", str(model)]) == 2
    assert "is a decoder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a decoder"):
        zoo.tokenize(tmp_path / "a.wav", tmp_path / "a.ztok", model=str(model))


def test_a_model_directory_with_a_damaged_part_is_refused_by_name(model, tmp_path):
    for name, content, complaint in (
        ("tokens.json", "{}", "missing"),
        ("tokens.json", (model / "tokens.json").read_text().replace("Parallel", "Paralel"), "did you mean 'Parallel'"),
        ("vocabulary.json", "[", "neither"),
        ("vocabulary.json", None, "needs this file"),
    ):
        for path in model.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=complaint):
            zoo.load(tmp_path)


def test_a_decoder_of_unknown_tokens_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="TokenFacts"):
        zoo.checkpoint.save(decoder(Parallel(SIZES)), tmp_path)


def test_a_conditioned_decoder_becomes_a_model_that_knows_its_codec_and_classes(tmp_path):
    class Codes(Repeats):
        codec, weights, labels, paces = "toy.one", "ab12", ("cat", "dog", "emu"), (1.5, 2.0, 0.5)

    layout = Delay(SIZES, begin=True)
    recipe = DecoderRecipe(conditioned(layout), layout, 10, optimization=QUICK, preview=None)
    fit(tmp_path, recipe, Codes())
    convert(tmp_path / "last.ckpt", tmp_path / "model")
    found = zoo.load(tmp_path / "model")
    assert found.tokens == TokenFacts(layout, None, "toy.one", "ab12", ("cat", "dog", "emu"), (1.5, 2.0, 0.5))
    torch.testing.assert_close(found.state_dict(), recipe.average.module.state_dict(), rtol=0, atol=0)


def test_a_draft_comes_near_to_its_teacher(run, tmp_path):
    options = [
        "--model.decoder.init_args.config.transformer.width=32",
        f"--model.distillation.teacher={run}/last.ckpt", "--model.distillation.weight=1",
    ]  # fmt: skip
    folder = train(SMOKE, [f"--run.folder={tmp_path}", *options])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    far = [line["loss/distillation"] for line in lines if "loss/distillation" in line]
    assert 0 < far[-1] < 0.5 * far[0]
    assert not any("teacher" in name for name in state(folder))


def test_a_teacher_of_other_tokens_is_refused(run, tmp_path):
    layout = Parallel(SIZES)
    with pytest.raises(UserError, match="teacher .* another layout"):
        from zoo.recipes.decoder import Distillation

        recipe = DecoderRecipe(decoder(layout), layout, 1, distillation=Distillation(str(run / "last.ckpt")))
        fit(tmp_path, recipe)


def test_codes_are_heard_through_the_preview_codec(small, monkeypatch):
    codec = small.codec().eval()
    sizes = codec.info.codebook_sizes
    monkeypatch.setattr(preview, "load_codec", lambda name: codec)
    preview._codec.cache_clear()
    layout = Delay(sizes, begin=True)
    recipe = DecoderRecipe(decoder(layout), layout, 10, preview=Preview(batches=1, codec="toy"))
    board = []

    class Board:
        def add_audio(self, name, signal, step, sample_rate):
            board.append((name, signal.shape, sample_rate))

        def add_image(self, name, picture, step):
            pass

    batch = Repeats(sizes=sizes).make(0)
    media = recipe.preview.sample(recipe.average.module, layout, batch, None, preview.Noise(0))
    assert torch.equal(media["target"], batch["codes"][0]) and (media["sample"] >= 0).all()
    given = int(media["given"])
    known = layout.completed_at((12,)) <= given
    assert torch.equal(media["sample"][:, known], media["target"][:, known])
    recipe.show(Board(), "clip 0", media, first=True)
    assert board == [
        (f"clip 0/{kind}", (1, 12 * codec.info.hop), codec.info.sample_rate) for kind in ("target", "sample")
    ]


WITNESS = """
import torch
from lightning.pytorch import Callback

class Witness(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.read = getattr(self, "read", 0) + int(batch["codes"].sum())

    def on_train_end(self, trainer, module):
        whole = trainer.strategy.lightning_module_state_dict()
        torch.save({"state": whole, "read": self.read}, f"rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "lightning.pytorch.strategies.ModelParallelStrategy"])
def test_two_processes_train_one_model(run, tmp_path, strategy):
    (tmp_path / "witness.py").write_text(WITNESS)
    options = [
        f"--run.folder={tmp_path}/run", "--trainer.devices=2", f"--trainer.strategy={strategy}",
        "--trainer.callbacks+=witness.Witness", "--data.init_args.batch_size=2",
    ]  # fmt: skip
    if strategy != "ddp":
        options += ["--trainer.strategy.save_distributed_checkpoint=false"]
    ran = subprocess.run(
        [Path(sys.executable).parent / "zoo", "train", SMOKE, *options],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["read"] != second["read"]
    # Two batches of two windows are other windows than one of four, but the same ones over two steps.
    alone = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    both = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = ([line["valid/bits/byte"] for line in lines if "valid/bits/byte" in line][-1] for lines in (alone, both))
    assert next(last) == pytest.approx(next(last), rel=0.05)
    weight = "decoder.transformer.layers.1.down.weight"
    assert first["state"][weight].shape == (64, 192)
    if strategy == "ddp":
        for name, value in first["state"].items():
            assert torch.equal(value, second["state"][name]), name
    assert convert(tmp_path / "run" / "last.ckpt", tmp_path / "model")["steps"] == 20
