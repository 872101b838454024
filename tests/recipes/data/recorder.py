"""A module that learns nothing and notes what it is trained on."""

from collections.abc import Callable
from typing import Any

import lightning
import torch


class Recorder(lightning.LightningModule):
    """Notes something of each batch.

    Args:
        note: What to note; added to `seen`.
    """

    def __init__(self, note: Callable[[Any], list]):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.note, self.seen = note, []

    def training_step(self, batch, index):
        self.seen += self.note(batch)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.weight.sum())
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
