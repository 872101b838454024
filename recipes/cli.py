"""Run a training recipe: a YAML for LightningCLI, bundled beside this file or the user's own."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from zoo.codecs.errors import UserError
from zoo.recipes.logging import RunLog

BUNDLED = Path(__file__).parent
DEFAULT_RECIPE = "zoo.recipes.audio.AudioRecipe"
CONFIG = "recipe.yaml"  # what a run was made from, beside its weights
MISLEADING = (  # what Lightning says of things that this recipe does on purpose
    "Found .* in eval mode",  # the averaged weights
    ".*pre-optimization state",
    "Your `IterableDataset` has `__len__`",
    "The number of training batches",
    "The 'train_dataloader' does not have many workers",
    "The 'val_dataloader' does not have many workers",
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data module knows where it was
    ".*LeafSpec",
)


def train(recipe: str, overrides: list[str] | None = None, resume: bool = False) -> Path:
    """Train a recipe to its end and return the run's folder, which holds `last.ckpt`, `train.log` and `metrics.jsonl`.

    Args:
        recipe: Name of a bundled recipe or path of a YAML file.
        overrides: Values that replace the recipe's, as LightningCLI takes them: `--model.steps=100`.
        resume: Go on from the run's `last.ckpt`.

    Raises:
        UserError: No such recipe, an option it doesn't have, values that no model or data can be made of, a run in the
            way, or none to resume or one of another model.
    """
    path = find_recipe(recipe)
    overrides = list(overrides or [])
    torch.set_float32_matmul_precision("high")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # it is not a script's own arguments
            cli = RecipeCLI(path, overrides)
    except SystemExit as stop:  # argparse prints what is wrong with an option, then exits
        if not stop.code:
            raise
        raise UserError(
            f"recipe {path.stem} can't be built from {path} and the options {overrides}; see above"
        ) from None
    except ValueError as error:  # what a model or data says of its settings, behind what jsonargparse has tried
        said = error.__cause__ or error
        raise UserError(f"recipe {path.stem} can't be built from {path} and {overrides}: {said}") from error
    last = cli.folder / "last.ckpt"
    if resume and not last.exists():
        raise UserError(f"{cli.folder} holds no last.ckpt to resume; train without --resume to start")
    if not resume and last.exists():
        raise UserError(f"{cli.folder} holds a run already; add --resume to go on, or --run.folder=DIR for another")
    kept = cli.folder / CONFIG
    before = kept.read_bytes() if resume and kept.exists() else None
    with warnings.catch_warnings():
        for message in MISLEADING:
            warnings.filterwarnings("ignore", message)
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if resume else None, weights_only=True)
        except RuntimeError as error:
            if not (resume and "loading state_dict" in str(error)):
                raise
            if before is not None:  # it tells how the run that is there came about, and not this attempt
                kept.write_bytes(before)
            raise UserError(
                f"{last} is of another model than recipe {path.stem} makes with {overrides}; resume with the recipe and"
                " the options that the run began with"
            ) from error
    if cli.trainer.global_step % cli.config.run.save_every:
        cli.trainer.save_checkpoint(last, weights_only=False)
    return cli.folder


def find_recipe(recipe: str) -> Path:
    """Path of a bundled recipe by name, or of a YAML file."""
    for path in (BUNDLED / f"{recipe}.yaml", Path(recipe)):
        if path.is_file():
            return path
    raise UserError(f"no recipe {recipe!r}; give the path of a YAML file or one of: {', '.join(list_recipes())}")


def list_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def recipe_of(path: Path) -> str:
    """Class path of the module that a YAML file trains: its `recipe`, or the recipe of audio codecs."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a recipe; a recipe names model, data and trainer")
    return str(content.get("recipe", DEFAULT_RECIPE))


def find_class(class_path: str) -> type[LightningModule]:
    """The LightningModule of that class path."""
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"recipe: {class_path!r} can't be imported ({error})") from None
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise UserError(f"recipe: {class_path!r} is no LightningModule")
    return kind


class RecipeCLI(LightningCLI):
    """LightningCLI whose run has one folder for all it writes, and one number for the length of the run."""

    def __init__(self, path: Path, overrides: list[str]):
        self.name, self.recipe = path.stem, recipe_of(path)
        super().__init__(
            find_class(self.recipe), LightningDataModule, subclass_mode_data=True, run=False,
            args=["--config", str(path), *overrides],
            save_config_kwargs={"overwrite": True, "config_filename": CONFIG},
        )  # fmt: skip

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Read from the YAML before there is a parser, so no option; declared here that it be allowed and saved.
        parser.add_argument("--recipe", type=str, default=self.recipe, choices=[self.recipe], help="class to train")
        parser.add_argument("--run.folder", type=str, default=f"runs/{self.name}", help="where the run writes")
        parser.add_argument("--run.save_every", type=int, default=500, help="steps between two saves of last.ckpt")
        parser.add_argument("--run.log_every", type=int, default=50, help="steps between two lines of train.log")
        parser.link_arguments("model.steps", "trainer.max_steps")
        parser.link_arguments("seed_everything", "model.seed")

    def before_instantiate_classes(self) -> None:
        if (steps := self.config.model.steps) < 1:
            raise UserError(f"{steps} steps train nothing; give 1 or more: --model.steps=1000")

    @property
    def folder(self) -> Path:
        return Path(self.config.run.folder)

    def instantiate_trainer(self, **kwargs) -> Trainer:
        run = self.config.run
        # `save_top_k=0`: only last.ckpt, which Lightning writes to a temporary name and moves into place.
        saver = ModelCheckpoint(run.folder, every_n_train_steps=run.save_every, save_top_k=0, save_last=True,
                                enable_version_counter=False)  # fmt: skip
        return super().instantiate_trainer(
            logger=TensorBoardLogger(run.folder, name="", version=""),
            callbacks=[*(self.config_init.trainer.callbacks or []), saver, RunLog(run.folder, run.log_every)],
            default_root_dir=run.folder,
        )
