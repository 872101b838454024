"""The record of a run: TensorBoard, `metrics.jsonl` for scripts and `train.log` for people, all in the run's folder."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from zoo.codecs.quantizers.base import Usage
from zoo.recipes.metrics import Score, mean_score


class RunLog(Callback):
    """Writes what `CodecRecipe` and `DecoderRecipe` report.

    A training step gives `scalars`, whose means are written as losses, and may give `means`, written under their own
    names, `counts`, whose sums are written as rates per second, and the `usage` of a quantizer. A validation step may
    give `scores`, `items`, how many were seen, and `media` to show.

    Args:
        folder: The run's folder; files in it are appended to.
        every: Steps between two lines; losses are means over them.
        clips: How many validation batches are given to TensorBoard to hear, see or read.
    """

    def __init__(self, folder: str | Path, every: int = 50, clips: int = 3):
        self.folder, self.every, self.clips = Path(folder), every, clips
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.seen: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.step = self.items = 0
        self.scores: dict[str, list[Score]] = defaultdict(list)

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        size = sum(parameter.numel() for parameter in module.network.parameters()) / 1e6
        step, name = int(module.step), type(module.network).__name__
        self._say(
            f"{'resume at' if step else 'start at'} step {step} of {module.steps}: {name} of {size:.2f} M parameters"
        )
        machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads on {module.device}"
        self._say(f"seed {module.seed}, {machine}, precision {trainer.precision_plugin.precision}")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.since, self.step = time.perf_counter(), int(module.step)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        means = {f"loss/{name}": value for name, value in outputs["scalars"].items()} | outputs.get("means", {})
        for name, value in means.items():
            self.sums[name] = self.sums[name] + torch.as_tensor(value).detach().float()
        self.counts.update(outputs.get("counts", {}))
        self.seen.update(means.keys())
        step = int(module.step)
        if step % self.every or step == self.step:  # batches whose gradients are gathered are not steps yet
            return
        seconds = time.perf_counter() - self.since
        values = {name: float(total) / self.seen[name] for name, total in self.sums.items()}
        values["steps_per_second"] = (step - self.step) / seconds
        values |= {f"{name}_per_second": count / seconds for name, count in self.counts.items()}
        values["rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values |= codebook_health(outputs.get("usage"))
        self._write(trainer, step, values)
        self._say(f"step {step}  " + "  ".join(_brief(values)))
        self.sums.clear()
        self.seen.clear()
        self.counts.clear()
        self.step, self.since = step, time.perf_counter()

    @rank_zero_only
    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.validation_began = time.perf_counter()

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.items += outputs.get("items", 0)
        for label, scores in outputs.get("scores", {}).items():
            for metric, values in scores.items():
                self.scores[f"{metric}/{label}"] += values
        if batch_idx < self.clips and outputs.get("media") and isinstance(trainer.logger, TensorBoardLogger):
            first = int(module.step) <= trainer.val_check_batch
            module.show(trainer.logger.experiment, f"clip {batch_idx}", outputs["media"], first)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        step, values, missing = int(module.step), {}, Counter()
        items = max((self.items, *(len(scores) for scores in self.scores.values())))
        for name, score in module.summary().items():
            self.scores[name].append(score)
        for name, scores in self.scores.items():
            values[f"valid/{name}"], _ = mean_score(scores)
            missing.update(f"{name.split('/')[0]}, {score.reason}" for score in scores if score.reason)
        seconds = time.perf_counter() - self.validation_began
        self._write(trainer, step, values)
        for label in dict.fromkeys(name.split("/")[1] for name in self.scores):
            figures = "  ".join(
                f"{metric} {values[f'valid/{metric}/{label}']:.3f}"
                for metric in dict.fromkeys(name.split("/")[0] for name in self.scores)
                if f"{metric}/{label}" in self.scores
            )
            self._say(f"valid {step}  {label:13s} {figures}")
        self._say(f"valid {step}  {items} items in {seconds:.0f} s")
        for why, count in missing.items():
            self._say(f"valid {step}  left out {count} x {why}")
        self.scores.clear()
        self.items = 0
        self.since = getattr(self, "since", 0.0) + seconds

    def _say(self, line: str) -> None:
        with open(self.folder / "train.log", "a") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {line}\n")

    def _write(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
            file.write(json.dumps({"step": step} | known) + "\n")
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)


def codebook_health(usage: Usage | None) -> dict[str, float]:
    """Share of codes alive, perplexity, restarts and commitment of each codebook, by name; {} without a quantizer."""
    if usage is None:
        return {}
    names = ("used", "perplexity", "restarted", "commitment")
    columns = {name: getattr(usage, name).tolist() for name in names}
    return {f"codebook {i}/{name}": value for name, column in columns.items() for i, value in enumerate(column)}


def show_clip(board: Any, name: str, media: Tensor, rate: int, step: int) -> None:
    """Give one clip to TensorBoard as sound and as a log-magnitude picture (80 dB from black to white)."""
    signal = media[0, :1].detach().float().cpu()
    board.add_audio(name, signal.clamp(-1, 1), step, sample_rate=rate)
    spectrum = torch.stft(signal, 512, 128, window=torch.hann_window(512), return_complex=True).abs()
    decibels = 20 * spectrum.clamp(min=1e-5).log10()
    picture = ((decibels - decibels.max()) / 80 + 1).clamp(0, 1).flip(1)
    board.add_image(name, picture, step)


def show_pictures(board: Any, name: str, media: Mapping[str, Tensor], step: int) -> None:
    """Give TensorBoard one picture and its reconstructions side by side."""
    row = [pictures[0].detach().float().cpu().clamp(0, 1) for pictures in media.values()]
    board.add_image(name, torch.cat(row, dim=2), step)


def _brief(values: dict[str, float]) -> list[str]:
    """The values of a training step for one line: losses by name, codebooks as means over levels."""
    brief = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items() if "codebook" not in name]
    for kind in ("used", "perplexity", "restarted"):
        levels = [value for name, value in values.items() if name.startswith("codebook") and name.endswith(kind)]
        if levels:
            brief.append(f"{kind} {sum(levels) / len(levels):.3g}")
    return brief
