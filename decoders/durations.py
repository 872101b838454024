"""How long each id of a text takes to be said, told from the text and the speaker.

As FastSpeech's duration predictor (Ren et al., arXiv 1905.09263), with the exponential law's likelihood in place of
squared error of logarithms: its best answer is the mean, so that sums of predicted durations are not too short.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import relu

SHORTEST = 0.05  # steps; something must be left of what is said fastest


class DurationPredictor(nn.Module):
    """Convolutions over the ids of a text, each layer adding to the one before.

    Args:
        text: Size of the text's vocabulary.
        classes: Labels are below this.
        width: Features.
        layers: Of five ids each.
    """

    def __init__(self, text: int, classes: int, width: int = 192, layers: int = 3) -> None:
        super().__init__()
        self.text = nn.Embedding(text, width)
        self.labels = nn.Embedding(classes, width) if classes else None
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.last = nn.Linear(width, 1)

    def forward(self, text: Int[Tensor, "R M"], labels: Int[Tensor, "R"] | None = None) -> Float[Tensor, "R M"]:
        """Mean steps that each id takes; 0 where there is none.

        Args:
            text: -1 behind the end.
            labels: -1 for a row of no label.
        """
        there = text >= 0
        return self._log_means(text, labels, there).exp().clamp(min=SHORTEST) * there

    def loss(
        self, text: Int[Tensor, "R M"], labels: Int[Tensor, "R"] | None, durations: Float[Tensor, "R M"]
    ) -> Float[Tensor, ""]:
        """Negative log-likelihood of true durations, a mean over all ids that are there; 0 where there are none."""
        there = text >= 0
        logs = self._log_means(text, labels, there)
        return ((durations * (-logs).exp() + logs) * there).sum() / there.sum().clamp(min=1)

    def _log_means(self, text: Tensor, labels: Tensor | None, there: Bool[Tensor, "R M"]) -> Float[Tensor, "R M"]:
        if not text.shape[1]:
            return text.float()
        x, seen = self.text(text.clamp(min=0)), there[..., None]
        if self.labels is not None and labels is not None:
            x = x + self.labels(labels.clamp(min=0))[:, None] * (labels >= 0)[:, None, None]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + relu(layer((norm(x) * seen).mT).mT)  # nothing comes in from behind the end
        return self.last(x)[..., 0].float()
