"""A head on a draft model that foretells whether what it drafts will stand.

Huang et al., "SpecDec++" (arXiv 2405.19715).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from zoo.decoders.heads import ResidualBlock

_SHAPE = "acceptance"  # where a file says what it holds


class Verdicts(NamedTuple):
    """What became of the drafted steps of a round.

    Attributes:
        features: float32 `[R, N, F]`: the hidden state that a step was drafted from, and for each code the logarithm of
            its chance, as the draft model sees it.
        stood: bool `[R, N]`.
        judged: bool `[R, N]`: all steps before it stood, and it was drafted.
    """

    features: Float[Tensor, "R N F"]
    stood: Bool[Tensor, "R N"]
    judged: Bool[Tensor, "R N"]


class AcceptanceHead(nn.Module):
    """The chance that a drafted step stands, given that all before it do.

    It reads the state that the step was drafted from, and how probable the step is; the authors read the state behind
    it, for which the draft model has to run once more than steps are drafted.

    Args:
        width: Of the draft model's hidden states.
        codebooks: Of its steps.
        inner: Width of the head's own layers.
        blocks: How many there are.
    """

    def __init__(self, width: int, codebooks: int, inner: int = 64, blocks: int = 1):
        super().__init__()
        self.shape = (width, codebooks, inner, blocks)
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width + codebooks, inner)
        self.blocks = nn.Sequential(*(ResidualBlock(inner) for _ in range(blocks)))
        self.out = nn.Linear(inner, 1)

    def forward(self, features: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows"]:
        """Logit of that chance, for features as of `Verdicts`."""
        width = self.shape[0]
        hidden, chances = features[..., :width], features[..., width:].clamp(min=-20)
        x = self.into(torch.cat((self.norm(hidden), chances), -1))
        return self.out(self.blocks(x))[..., 0]

    def save(self, path: str | Path) -> None:
        """As safetensors; `load` reads it again."""
        parts = {name: part.detach().contiguous().cpu() for name, part in self.state_dict().items()}
        save_file(parts, path, {_SHAPE: json.dumps(self.shape)})

    @staticmethod
    def load(path: str | Path) -> AcceptanceHead:
        """What `save` wrote, in eval mode.

        Raises:
            ValueError: The file holds no such head.
            OSError: It cannot be read.
        """
        try:
            with safe_open(path, "pt") as file:
                head = AcceptanceHead(*json.loads((file.metadata() or {})[_SHAPE]))
                head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path} holds no acceptance head ({error}); give what `AcceptanceHead.save` wrote"
            ) from None
        return head.eval()


def train_acceptance(
    head: AcceptanceHead,
    verdicts: Sequence[Verdicts],
    steps: int = 500,
    rate: float = 3e-3,
    rejected: float = 1.0,
    batch: int = 512,
    seed: int = 0,
) -> list[float]:
    """Let a head learn from what became of drafts, as `proposers.Watched` collects it; returns the loss of each step.

    The loss is the binary cross-entropy of steps that were judged.

    Args:
        steps: Updates, by AdamW.
        rate: Of learning, falling to 0.
        rejected: Weight of steps that fell. The authors, whose drafts mostly stand, take 6, which makes drafts shorter;
            1 gives true chances.
        batch: Drafted steps of an update.
        seed: Of the batches.

    Raises:
        ValueError: Nothing was judged.
    """
    judged = [each.judged.flatten() for each in verdicts]
    if not any(part.any() for part in judged):
        raise ValueError(f"{len(verdicts)} verdicts, and no step that was judged; decode with a proposer that drafts")
    features = torch.cat([each.features.flatten(0, 1)[part] for each, part in zip(verdicts, judged, strict=True)])
    stood = torch.cat([each.stood.flatten()[part] for each, part in zip(verdicts, judged, strict=True)])
    features, stood = features.float(), stood.float()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses = []
    head.train()
    for _ in range(steps):
        some = torch.randint(len(stood), (min(batch, len(stood)),), generator=generator).to(stood.device)
        weight = torch.where(stood[some] > 0, 1.0, rejected)
        loss = binary_cross_entropy_with_logits(head(features[some]), stood[some], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    head.eval()
    return losses
