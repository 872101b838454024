"""The bundled recipe of pictures, run as `zoo train` runs it, and what only picture recipes have."""

import json
import tarfile
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_codec_recipe import trainer
from torch import nn

from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import to_pixels
from zoo.codecs.image.variable import VariableCodec, VariableConfig
from zoo.codecs.quantizers import residual_vq
from zoo.recipes.cli import find_class, recipe_of, train
from zoo.recipes.codec import CodecOptimization
from zoo.recipes.data.picture_generated import GeneratedPictures, Scenes
from zoo.recipes.export import export
from zoo.recipes.image import ImageLosses, ImageRecipe

SMOKE = "vqgan.images-smoke"
EVERY_LOSS = ("absolute", "squared", "perceptual", "commitment", "adversarial", "features", "discriminator")


@dataclass(frozen=True)
class PatchConfig:
    patch: int = 4


class PatchCodec(ImageCodec):
    """Patches through one matrix each way, with two residual codebooks between: what learns in a few steps."""

    def __init__(self, config: PatchConfig = PatchConfig()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        self.encoder = nn.Conv2d(3, 16, config.patch, config.patch)
        self.decoder = nn.ConvTranspose2d(16, 3, config.patch, config.patch)
        self.quantizer = residual_vq(16, 64, 2, kmeans_vectors=500)

    @property
    def info(self) -> CodecInfo:
        sizes = self.quantizer.codebook_sizes
        return CodecInfo(
            "image", 0, 3, self.config.patch, sizes, False, None, sum(p.numel() for p in self.parameters())
        )

    def latents(self, media):
        return self.encoder(media)

    def synthesise(self, z):
        return self.decoder(z)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(SMOKE, [f"--run.folder={folder}", "--model.steps=40"])


def test_a_run_reports_every_loss_and_every_metric(run):
    trained = [line for line in lines(run) if "steps_per_second" in line][-1]
    assert trained["step"] == 40
    assert all(trained[f"loss/{name}"] > 0 for name in EVERY_LOSS)
    scored = [line for line in lines(run) if "valid/psnr/1 codebooks" in line]
    assert [line["step"] for line in scored] == [10, 20, 30, 40]
    for metric in ("psnr", "ssim", "ms_ssim", "contrast", "used", "perplexity"):
        assert scored[-1][f"valid/{metric}/1 codebooks"] > 0


def test_every_validation_shows_target_and_reconstructions_side_by_side(run):
    board = EventAccumulator(str(run), size_guidance={"images": 0})
    board.Reload()
    assert board.Tags()["images"] == ["clip 0", "clip 1"]
    assert [event.step for event in board.Images("clip 0")] == [10, 20, 30, 40]
    row = board.Images("clip 0")[-1]
    assert (row.height, row.width) == (176, 3 * 176)  # the target, unquantized, and one codebook


@pytest.mark.slow
def test_a_run_stopped_half_way_and_resumed_equals_an_uninterrupted_one(run, tmp_path):
    # The schedule of all 40 steps from the start, as a crash would leave it: only the trainer stops at 20.
    class PowerCut(Exception):
        pass

    def stop(recipe, batch, index):
        if int(recipe.step) == 20:
            raise PowerCut
        return whole_validation(recipe, batch, index)

    whole_validation = ImageRecipe.validation_step
    folder = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(ImageRecipe, "validation_step", stop)
        train(SMOKE, [f"--run.folder={folder}", "--model.steps=40"])
    assert checkpoint(folder)["global_step"] == 20
    torch.manual_seed(999)  # a new process would not find the old one's random state
    train(SMOKE, [f"--run.folder={folder}", "--model.steps=40"], resume=True)
    whole, parts = checkpoint(run), checkpoint(folder)
    assert parts["global_step"] == whole["global_step"] == 40
    assert {"lecam.real", "lecam.fake"} <= parts["state_dict"].keys()
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    assert parts["GeneratedPictures"] == whole["GeneratedPictures"] == {"consumed": 160}  # 40 batches of 4


def test_the_export_holds_the_averaged_weights_and_codes_pictures(run):
    codec, facts = export(run / "last.ckpt")
    assert facts == {"steps": 40, "seed": 1}
    assert torch.equal(
        codec.decoder.conv_out.weight, checkpoint(run)["state_dict"]["average.module.decoder.conv_out.weight"]
    )
    picture = torch.rand(1, 3, 30, 21)
    assert codec.decode(codec.encode(picture)).shape == picture.shape


@pytest.mark.parametrize(("precision", "balance"), [("32-true", False), ("bf16-mixed", True)])
def test_training_lowers_the_losses(tmp_path, precision, balance):
    torch.manual_seed(0)
    losses = ImageLosses(squared=1.0, perceptual=0.2, balance=balance)
    recipe = ImageRecipe(PatchCodec(), losses, steps=60, optimization=CodecOptimization(rate=2e-2, warmup=5))
    trainer(tmp_path, 60, precision=precision).fit(recipe, GeneratedPictures(size=32, epoch_batches=60))
    trained = lines(tmp_path)
    # Fine stripes, which a matrix of rank 16 can't follow, are most of the perceptual distance.
    for name, factor in {"absolute": 0.6, "squared": 0.6, "perceptual": 0.85}.items():
        assert trained[-1][f"loss/{name}"] < factor * trained[0][f"loss/{name}"]


@pytest.fixture
def variable_recipe():
    torch.manual_seed(0)
    shape = {"widths": (8, 8, 8), "blocks_down": (1, 1), "blocks": 1, "blocks_up": (1, 1)}
    config = VariableConfig(**shape, latent=24, codebooks=6, codebook_size=32, kmeans_vectors=200)
    return ImageRecipe(
        VariableCodec(config), ImageLosses(squared=1.0), steps=10, rates=(0.05, 0.12), codebooks_first=True
    )


def test_rates_are_spread_over_cells_and_all_of_the_range_is_practised(variable_recipe, tmp_path, monkeypatch):
    spent = []
    whole = variable_recipe.codec.quantizer.forward
    monkeypatch.setattr(
        variable_recipe.codec.quantizer,
        "forward",
        lambda z, *n: (output := whole(z, *n), spent.append((output.codes >= 0).sum(1)))[0],
    )
    trainer(tmp_path, 10).fit(variable_recipe, GeneratedPictures(size=64, epoch_batches=10))
    depth = torch.cat(spent[-10:])
    assert depth.min() >= 1
    bpp = 5 * depth.float().mean((1, 2)) / 256  # codebooks of 32: 5 bits
    assert bpp.max() <= 0.12
    assert bpp.min() < 0.06 < 0.09 < bpp.max()
    assert (depth.flatten(1).amax(1) > depth.flatten(1).amin(1)).any()  # cells of one picture differ


def test_codebooks_that_come_first_have_seen_their_latents_before_the_first_step(variable_recipe, tmp_path):
    data = GeneratedPictures(size=64, epoch_batches=10)
    first = variable_recipe.codec.quantizer.levels[0]
    trainer(tmp_path, 1).fit(variable_recipe, data)
    assert bool(variable_recipe.codec.quantizer.start.fitted)
    assert int(first.steps) == 2  # the batch that completed the start, and the first step
    assert data.state_dict() == {"consumed": data.batch_size}  # and is that of the first batch all the same


def test_codebooks_can_come_first_only_if_they_start_by_kmeans(tmp_path):
    codec = PatchCodec()
    codec.quantizer = residual_vq(16, 64, 2)
    recipe = ImageRecipe(codec, ImageLosses(), steps=1, codebooks_first=True)
    with pytest.raises(UserError, match="kmeans_vectors"):
        trainer(tmp_path, 1).fit(recipe, GeneratedPictures(size=32, epoch_batches=1))


def test_rates_are_a_range_above_nothing():
    with pytest.raises(ValueError, match="rates"):
        ImageRecipe(PatchCodec(), ImageLosses(), steps=1, rates=(0.3, 0.2))


def test_a_missing_weight_of_the_frechet_distance_is_said_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    options = ["--model.frechet=true", "--model.steps=10", f"--run.folder={tmp_path / 'run'}"]
    train(SMOKE, options)
    assert "left out 1 x fid, FID needs" in (tmp_path / "run" / "train.log").read_text()


def test_perceptual_weights_that_are_missing_are_the_users_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="vgg16-397923af.pth.*perceptual_kind: contrast"):
        ImageRecipe(PatchCodec(), ImageLosses(perceptual=1.0, perceptual_kind="vgg"), steps=1)


def test_two_ways_to_weigh_the_adversary_are_the_users_error():
    with pytest.raises(UserError, match="balance and adaptive"):
        ImageLosses(balance=True, adaptive=True)


def test_a_loss_without_weight_is_not_computed():
    real, fake = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    recipe = ImageRecipe(PatchCodec(), ImageLosses(absolute=0.0, squared=1.0), steps=1)
    assert recipe.perceptual is None and recipe.discriminators is None
    assert list(recipe.distances(real, fake)) == ["squared"]
    assert recipe.distances(real, fake)["squared"] == (real - fake).square().mean()


def test_a_recipe_says_which_module_trains_it_and_audio_is_the_default(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {steps: 1}\n")
    assert recipe_of(path) == "zoo.recipes.audio.AudioRecipe"
    path.write_text("recipe: zoo.recipes.image.ImageRecipe\n")
    assert find_class(recipe_of(path)) is ImageRecipe
    for content in ("[1, 2]", "a: [", "\x00"):
        path.write_text(content)
        with pytest.raises(UserError, match="recipe.yaml"):
            recipe_of(path)


@pytest.mark.parametrize("wrong", ["no.such.module.Recipe", "Recipe", "torch.nn.Linear"])
def test_a_class_that_is_no_recipe_is_the_users_error(wrong):
    with pytest.raises(UserError, match=wrong):
        find_class(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folders", "shards"])
def test_the_full_recipes_train_on_a_corpus_of_the_layout_of_imagenet(tmp_path, layout):
    scenes = Scenes(80, seed=5)
    for number in range(8):
        split = "val" if number % 4 == 0 else "train"
        path = tmp_path / split / f"n0144{number % 2}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_pixels(scenes.crop(number))).save(path)
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-0000.tar", "w") as tar:
            for path in sorted((tmp_path / split).rglob("*.JPEG")):
                tar.add(path, f"{path.stem}.jpeg")
    # Two steps of all that the recipe switches on, and a validation, in place of 400,000 on a GPU.
    smaller = {
        "model.steps": 2, "model.discriminator_start": 0, "model.optimization.warmup": 1,
        "model.codec.init_args.config.width": 8, "model.codec.init_args.config.groups": 4,
        "model.codec.init_args.config.latent": 8, "model.codec.init_args.config.codebook_size": 16,
        "data.init_args.batch_size": 2, "data.init_args.workers": 1, "data.init_args.crops.size": 32,
        "trainer.val_check_interval": 2, "trainer.accelerator": "cpu", "run.log_every": 1,
        "run.folder": tmp_path / "run",
    }  # fmt: skip
    if layout == "folders":
        smaller |= {"data.init_args.train_dir": tmp_path / "train", "data.init_args.valid_dir": tmp_path / "val",
                    "model.discriminators.patch_channels": 4}  # fmt: skip
    else:
        smaller |= {"data.init_args.train_shards": tmp_path / "train-*.tar", "model.discriminators.style_size": 32,
                    "data.init_args.valid_shards": tmp_path / "val-*.tar", "model.discriminators.style_most": 16,
                    "model.discriminators.style_channels": 4}  # fmt: skip
    recipe = "vqgan.images-full" if layout == "folders" else "vqgan.images-full-shards"
    folder = train(recipe, [f"--{name}={value}" for name, value in smaller.items()])
    losses = [line for line in lines(folder) if "loss/absolute" in line]
    assert [line["step"] for line in losses] == [1, 2]
    assert all(losses[1][f"loss/{name}"] > 0 for name in ("absolute", "squared", "perceptual", "discriminator"))
    assert any("valid/ssim/1 codebooks" in line for line in lines(folder))
    kind = "PictureFolder" if layout == "folders" else "PictureShards"
    assert checkpoint(folder)[kind] == {"consumed": 4}  # two batches of two crops
