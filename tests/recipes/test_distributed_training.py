"""A recipe on two processes: one optimizer step each for both, different data, the same weights throughout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WITNESS = """
import torch
from lightning.pytorch import Callback

class Witness(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.heard = getattr(self, "heard", 0.0) + batch["audio"].double().abs().sum()

    def on_train_end(self, trainer, module):
        torch.save({"state": module.state_dict(), "heard": self.heard}, f"rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    (tmp_path / "witness.py").write_text(WITNESS)
    options = [
        f"--run.folder={tmp_path}/run", "--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true",
        "--trainer.callbacks+=witness.Witness", "--model.steps=8",
    ]  # fmt: skip
    ran = subprocess.run(
        [Path(sys.executable).parent / "zoo", "train", "seanet.speech-16khz-smoke", *options],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert int(first["state"]["step"]) == 8
    assert first["heard"] != second["heard"]
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
