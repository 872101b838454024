"""The numbered stream of crops: ranks share it, and a stopped run goes on with the next crop."""

import lightning
import numpy as np
import pytest
import torch
from recorder import Recorder

from zoo.recipes.data.stream import CropStream, ResumableLoader, StreamDataModule


class Numbers:
    """Crop number i is the number i."""

    def crop(self, index):
        return np.full((1, 1), index, np.float32)


class NumberModule(StreamDataModule):
    def train_source(self):
        return Numbers()


def train(folder, steps, workers, resume=None):
    recorder = Recorder(lambda batch: batch["audio"].flatten().int().tolist())
    data = NumberModule(batch_size=2, epoch_batches=7, workers=workers)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return recorder.seen


# Epochs have 7 batches: stopped in the first epoch, at the end of one, and in a later one.
@pytest.mark.parametrize("stop", [3, 7, 12])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_with_the_crop_after_the_last_one(tmp_path, stop, workers):
    before = train(tmp_path, stop, workers)
    after = train(tmp_path, 20, workers, resume=tmp_path / "last.ckpt")
    assert before == list(range(2 * stop))
    assert after == list(range(2 * stop, 40))


def test_ranks_and_workers_share_the_stream_without_gap_or_repetition():
    def seen(rank, workers):
        stream = CropStream(Numbers(), batch_size=3, batches=4, rank=rank, ranks=2)
        loader = ResumableLoader(stream, consumed=100, workers=workers)
        numbers = [int(number) for batch in loader for number in batch["audio"].flatten()]
        assert loader.consumed == 124  # 2 ranks x 4 batches x 3 crops
        return numbers

    assert sorted(seen(0, 0) + seen(1, 0)) == list(range(100, 124))
    assert seen(1, 2) == seen(1, 0)


def test_a_batch_counts_as_consumed_from_the_moment_it_is_handed_out():
    loader = ResumableLoader(CropStream(Numbers(), batch_size=2, batches=5), workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"consumed": 2}  # not what the workers have made ahead
    other = ResumableLoader(CropStream(Numbers(), batch_size=2, batches=5))
    other.load_state_dict(loader.state_dict())
    assert torch.equal(next(iter(other))["audio"], next(batches)["audio"])


def test_the_module_saves_and_restores_its_place_without_the_loader():
    # Lightning restores a loader only in mid-epoch or where max_steps is set; all else rests on the module.
    data = NumberModule(batch_size=2, epoch_batches=7, workers=0)
    batches = iter(data.train_dataloader())
    next(batches)
    other = NumberModule(batch_size=2, epoch_batches=7, workers=0)
    other.load_state_dict(data.state_dict())
    assert torch.equal(next(iter(other.train_dataloader()))["audio"], next(batches)["audio"])
