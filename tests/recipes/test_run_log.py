"""What a run leaves behind to listen to, to look at and to read."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_codec_recipe import trainer
from torch.utils.data import DataLoader

from zoo.recipes.logging import show_clip

VALIDATED = {"limit_val_batches": 2, "val_check_interval": 10, "check_val_every_n_epoch": None}
LABELS = ("target", "unquantized", "1 codebooks", "2 codebooks")


@pytest.fixture
def board(small, tmp_path) -> EventAccumulator:
    """TensorBoard's view of a run of 20 steps that was validated twice, on two clips."""
    run: Trainer = trainer(tmp_path, 20, logger=TensorBoardLogger(tmp_path, name="", version=""), **VALIDATED)
    run.fit(small.recipe(), small.data())
    events = EventAccumulator(str(tmp_path), size_guidance={"audio": 0, "images": 0})
    events.Reload()
    return events


def test_every_validation_gives_sound_and_spectrogram_of_each_rate(board):
    wanted = {f"clip {clip}/{label}" for clip in (0, 1) for label in LABELS}
    assert set(board.Tags()["audio"]) == set(board.Tags()["images"]) == wanted
    for clip in (0, 1):
        assert [event.step for event in board.Audio(f"clip {clip}/2 codebooks")] == [10, 20]
        assert [event.step for event in board.Images(f"clip {clip}/2 codebooks")] == [10, 20]
        assert [event.step for event in board.Audio(f"clip {clip}/target")] == [10]  # it never changes
    sound = board.Audio("clip 0/target")[0]
    assert (sound.sample_rate, sound.length_frames) == (8000, 4000)
    picture = board.Images("clip 0/target")[0]
    assert (picture.height, picture.width) == (257, 4000 // 128 + 1)  # a transform of 512, every 128 samples


def test_health_of_each_codebook_and_the_metrics_are_curves(board):
    curves = set(board.Tags()["scalars"])
    health = {f"codebook {i}/{kind}" for i in (0, 1) for kind in ("used", "perplexity", "restarted", "commitment")}
    metrics = {f"valid/{metric}/{label}" for metric in ("pesq", "stoi", "si_sdr", "mel") for label in LABELS[1:]}
    assert health | metrics <= curves
    assert [event.step for event in board.Scalars("codebook 1/used")] == [5, 10, 15, 20]
    assert [event.step for event in board.Scalars("valid/mel/2 codebooks")] == [10, 20]


def test_a_metric_that_cannot_be_computed_is_no_number_and_its_reason_is_in_the_log(small, tmp_path):
    class Silence(small.data):
        def train_dataloader(self):
            return self.val_dataloader()

        def val_dataloader(self):
            return DataLoader([{"audio": torch.zeros(1, 4000)}] * 10)

    trainer(tmp_path, 10, **VALIDATED).fit(small.recipe(10), Silence())
    log = (tmp_path / "train.log").read_text()
    for metric in ("pesq", "stoi", "si_sdr"):
        assert f"left out 6 x {metric}, reference is silent" in log  # two clips at three rates
    lines = [json.loads(line, parse_constant=pytest.fail) for line in open(tmp_path / "metrics.jsonl")]
    scored = next(line for line in lines if "valid/pesq/2 codebooks" in line)
    assert scored["valid/pesq/2 codebooks"] is None and scored["valid/mel/2 codebooks"] > 0


def test_a_picture_shows_low_tones_at_the_bottom_and_silence_in_black():
    shown = {}
    board = type(
        "Board",
        (),
        {"add_audio": lambda *a, **k: None, "add_image": lambda _, name, image, step: shown.update({name: image})},
    )()
    time = torch.arange(8000) / 8000
    tone = torch.sin(2 * torch.pi * 1000 * time) * (time < 0.5)
    show_clip(board, "tone", tone[None, None], 8000, 1)
    picture = shown["tone"][0]  # [height, width], top first
    assert int(picture[:, 10].argmax()) == 256 - 1000 * 512 // 8000
    assert picture[:, 10].max() == pytest.approx(1, abs=0.02) and picture[:, -10].max() == 0
