"""The bundled recipes, run as `zoo train` runs them."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from zoo.checkpoint import save
from zoo.codecs.errors import UserError
from zoo.configs import from_json
from zoo.decoders.two_stage import TwoStageConfig, TwoStageDecoder
from zoo.recipes.cli import RecipeCLI, find_recipe, list_recipes, train
from zoo.recipes.codec import CodecRecipe
from zoo.recipes.export import export
from zoo.token_facts import TokenFacts

SMOKE = "spectral.speech-16khz-smoke"


def checkpoint(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(SMOKE, [f"--run.folder={folder}"])


def test_a_run_leaves_its_weights_its_recipe_and_a_log_for_people_and_scripts(run):
    assert {"last.ckpt", "recipe.yaml", "train.log", "metrics.jsonl"} <= {path.name for path in run.iterdir()}
    assert any(path.name.startswith("events.out.tfevents") for path in run.iterdir())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 5 and lines[-1]["step"] == 20
    trained = [line for line in lines if "steps_per_second" in line][-1]
    losses = ("mel", "wave", "noise", "commitment", "adversarial", "features", "discriminator")
    assert all(trained[f"loss/{name}"] > 0 for name in losses)
    assert all(0 <= trained[f"codebook {level}/used"] <= 1 for level in range(4))
    scored = [line for line in lines if "valid/pesq/4 codebooks" in line]
    assert [line["step"] for line in scored] == [10, 20]
    assert "valid 20  4 codebooks" in (run / "train.log").read_text()


@pytest.mark.slow
def test_a_crashed_and_resumed_run_equals_an_uninterrupted_one(run, tmp_path, monkeypatch):
    def power_cut(recipe, batch, index):
        raise RuntimeError("power cut")

    folder = tmp_path / "parts"
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(CodecRecipe, "validation_step", power_cut)  # at step 10: batch 3 of the second epoch of 7
        train(SMOKE, [f"--run.folder={folder}"])
    assert checkpoint(folder)["global_step"] == 10
    train(SMOKE, [f"--run.folder={folder}"], resume=True)
    whole, parts = checkpoint(run), checkpoint(folder)
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    assert parts["global_step"] == whole["global_step"] == 20
    assert parts["GeneratedAudio"] == whole["GeneratedAudio"] == {"consumed": 80}  # 20 batches of 4


def test_the_export_holds_the_averaged_weights_and_codes_audio(run):
    codec, facts = export(run / "last.ckpt")
    assert facts == {"steps": 20, "seed": 1}
    saved = checkpoint(run)["state_dict"]
    weight = codec.decoder.enter.weight
    assert torch.equal(weight, saved["average.module.decoder.enter.weight"])
    assert not torch.equal(weight, saved["codec.decoder.enter.weight"])
    media = torch.randn(1, 1, 3200)
    tokens = codec.encode(media)
    assert tokens.codes.shape == (1, 4, 10)
    assert torch.isfinite(codec.decode(tokens)).all()


def test_a_checkpoint_cannot_make_export_import_code_of_its_choice(run, tmp_path):
    saved = checkpoint(run)
    saved["codec"]["class_path"] = "antigravity.Codec"
    torch.save(saved, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="antigravity.Codec"):
        export(tmp_path / "evil.ckpt")


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_export_names_a_file_that_is_no_checkpoint(content, tmp_path):
    path = tmp_path / "wrong.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="wrong.ckpt"):
        export(path)


def test_a_finished_run_is_not_overwritten_by_another(run):
    with pytest.raises(UserError, match="--resume"):
        train(SMOKE, [f"--run.folder={run}"])


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(UserError, match="no last.ckpt"):
        train(SMOKE, [f"--run.folder={tmp_path}"], resume=True)


def test_an_unknown_recipe_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match=SMOKE):
        train("no-such-recipe")


def test_an_unknown_option_is_the_users_error(tmp_path, capsys):
    with pytest.raises(UserError, match="model.no_such"):
        train(SMOKE, [f"--run.folder={tmp_path}", "--model.no_such=1"])


@pytest.mark.parametrize(
    ("recipe", "option", "message"),
    [
        ("unrolled.spelling-smoke", "--model.steps=0", "0 steps train nothing; give 1 or more: --model.steps=1000"),
        ("unrolled.spelling-smoke", "--model.steps=-3", "-3 steps train nothing"),
        ("unrolled.spelling-smoke", "--data.init_args.letters=0", ": words of 0 letters, 8 in a batch; .* both$"),
        ("unrolled.spelling-smoke", "--data.init_args.batch_size=0", "words of 3 letters, 0 in a batch"),
        ("zipper.singing-smoke", "--model.decoder.init_args.config.joints=0", "0 joints between towers of .2, 2"),
    ],
)
def test_values_that_no_model_or_data_can_be_made_of_are_the_users_error(tmp_path, recipe, option, message):
    with pytest.raises(UserError, match=message):
        train(recipe, [f"--run.folder={tmp_path}", option])


def test_a_missing_corpus_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        train("spectral.speech-16khz", [f"--run.folder={tmp_path}", f"--data.init_args.train_dir={tmp_path}/nowhere"])


@pytest.fixture(scope="module")
def small_decoder(tmp_path_factory):
    """The `last.ckpt` of a decoder's smoke recipe."""
    folder = tmp_path_factory.mktemp("small")
    train("autoregressive.text-smoke", [f"--run.folder={folder}", "--model.steps=1", "--trainer.val_check_interval=1"])
    return folder / "last.ckpt"


def test_a_run_of_another_model_is_not_resumed_and_goes_on_telling_how_it_came_about(small_decoder, tmp_path):
    for name in ("last.ckpt", "recipe.yaml"):
        shutil.copy(small_decoder.with_name(name), tmp_path / name)
    with pytest.raises(UserError, match="last.ckpt is of another model than recipe autoregressive"):
        train("autoregressive.text-looped-smoke", [f"--run.folder={tmp_path}"], resume=True)
    assert (tmp_path / "recipe.yaml").read_text() == small_decoder.with_name("recipe.yaml").read_text()


@pytest.mark.parametrize("name", list_recipes())
def test_every_bundled_recipe_builds_its_codec_and_data(name, small_decoder, tmp_path):
    # What a recipe starts from is the work of another: left out here, or the smallest one that its decoder is part of.
    recipe = find_recipe(name).read_text()
    start = f"--model.target={small_decoder}" if "\n  target: runs/" in recipe else "--model.start_from=null"
    if "\n  target: runs/two-stage" in recipe and (own := yaml.safe_load(recipe)["model"].get("decoder")):
        whole = TwoStageDecoder(from_json(TwoStageConfig, own["init_args"]["config"], name))
        whole.tokens = TokenFacts(whole.layout)
        save(whole, tmp_path)
        start = f"--model.target={tmp_path}"
    cli = RecipeCLI(find_recipe(name), [start])
    assert cli.trainer.max_steps == cli.model.steps
    assert cli.model.seed == cli.config.seed_everything
    assert getattr(cli.datamodule, "batch_size", 0) > 0 or cli.datamodule.batch_cells > 0


@pytest.mark.slow
def test_the_full_recipe_trains_on_a_corpus_of_the_layout_of_libritts(tmp_path):
    draw = np.random.default_rng(0)
    for subset, speaker in (("train-clean-100", 19), ("train-clean-360", 100), ("dev-clean", 84)):
        folder = tmp_path / "corpus" / "LibriTTS" / subset / str(speaker) / "198"
        folder.mkdir(parents=True)
        for kind in ("original", "normalized"):
            (folder / f"{speaker}_198_000000_000000.{kind}.txt").write_text("Noise.")
        soundfile.write(folder / f"{speaker}_198_000000_000000.wav", draw.uniform(-0.3, 0.3, 24_000), 24_000)
    # Two steps of all that the recipe switches on, and a validation, in place of 400,000 on a GPU.
    smaller = {
        "model.steps": 2, "model.quantize_after": 0, "model.discriminator_start": 0,
        "model.discriminators.stft_channels": 4, "model.discriminators.period_channels": [4, 8, 8, 16],
        "model.codec.init_args.config.kmeans_vectors": 30, "model.codec.init_args.config.codebook_size": 16,
        "data.init_args.root": tmp_path / "corpus", "data.init_args.batch_size": 2, "data.init_args.workers": 1,
        "data.init_args.crops.seconds": 0.4, "trainer.val_check_interval": 2, "trainer.accelerator": "cpu",
        "run.log_every": 1, "run.folder": tmp_path / "run",
    }  # fmt: skip
    folder = train("spectral.speech-16khz-full", [f"--{name}={value}" for name, value in smaller.items()])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss/mel" in line]
    assert [line["step"] for line in losses] == [1, 2]
    assert all(losses[1][f"loss/{name}"] > 0 for name in ("mel", "noise", "adversarial", "features", "discriminator"))
    assert any("valid/mel/16 codebooks" in line for line in lines)
    assert checkpoint(folder)["LibriTTS"] == {"consumed": 4}  # two batches of two crops
