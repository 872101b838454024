"""Which frames of speech say which byte of its text, found without anybody having said it.

Badlani et al., "One TTS Alignment To Rule Them All" (arXiv 2108.10447): frames and bytes are embedded so that the sum
over all monotonic ways to say the text is likely; then the likeliest way gives each byte its frames. A prior favours
even speech while nothing is known.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, pad

NEVER = -1e4  # a logit; of infinities the sum over all ways has no gradient
BLANK = -1.0  # logit of "no byte", which takes frames that fit none


class Aligner(nn.Module):
    """Embeds bytes and frames, each with a few neighbours, in one space.

    Args:
        sizes: Codes of each codebook.
        width: Of the embeddings.
    """

    def __init__(self, sizes: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        self.text = nn.Embedding(257, width, padding_idx=256)
        self.codes = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.reads, self.hears = neighbours(width, 3), neighbours(width, 5)
        self.text_norm, self.code_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, text: Int[Tensor, "R M"], codes: Int[Tensor, "R Q T"], prior: Float[Tensor, "R T M"] | None = None
    ) -> Float[Tensor, "R T M"]:
        """How well each frame fits each byte, as logits; `NEVER` where there is no byte.

        Args:
            text: -1 behind the end of a row.
            codes: -1 behind the end of a row.
            prior: Logarithms of `even_prior`, added.
        """
        there = text >= 0
        bytes_ = self.text_norm(self.reads(self.text(text.where(there, 256)).mT).mT)
        heard = torch.stack([table(codes[:, q].clamp(min=0)) for q, table in enumerate(self.codes)]).sum(0)
        frames = self.code_norm(self.hears(heard.mT).mT)
        logits = frames @ bytes_.mT / frames.shape[-1] ** 0.5
        logits = logits if prior is None else logits + prior
        return logits.masked_fill(~there[:, None], NEVER)


def neighbours(width: int, kernel: int) -> nn.Sequential:
    """Two convolutions over time."""
    return nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2), nn.ReLU(), nn.Conv1d(width, width, 1))


def even_prior(frames: Int[Tensor, "R"], ids: Int[Tensor, "R"], strength: float = 0.2) -> Float[Tensor, "R T M"]:
    """Logarithm of a beta-binomial law over the bytes for each frame: near the diagonal, wider in the middle."""
    t = torch.arange(int(frames.max()), dtype=torch.float32)[None, :, None]
    m = torch.arange(int(ids.max()), dtype=torch.float32)[None, None]
    count, last = frames[:, None, None].float(), (ids[:, None, None] - 1).float()
    a, b = strength * (t + 1), strength * (count - t).clamp(min=1e-3)
    m = m.minimum(last)
    binomial = (last + 1).lgamma() - (m + 1).lgamma() - (last - m + 1).lgamma()
    beta = (m + a).lgamma() + (last - m + b).lgamma() - (last + a + b).lgamma()
    return binomial + beta - (a.lgamma() + b.lgamma() - (a + b).lgamma())


def forward_sum(logits: Float[Tensor, "R T M"], frames: Int[Tensor, "R"], ids: Int[Tensor, "R"]) -> Float[Tensor, ""]:
    """Negative log-probability of saying all bytes in order, over all ways, for a byte."""
    law = pad(logits, (1, 0), value=BLANK).log_softmax(-1)
    order = torch.arange(1, logits.shape[2] + 1).expand(len(logits), -1)
    return ctc_loss(law.transpose(0, 1), order, frames, ids, zero_infinity=True)


@torch.no_grad()
def likeliest(logits: Float[Tensor, "R T M"], frames: Int[Tensor, "R"], ids: Int[Tensor, "R"]) -> Int[Tensor, "R M"]:
    """Frames of each byte, one at least, in order, that fit best together; 0 behind the end of a row.

    Raises:
        ValueError: A text of more bytes than frames.
    """
    if (ids > frames).any():
        row = int((ids > frames).int().argmax())
        raise ValueError(f"row {row}: {int(ids[row])} bytes cannot have a frame each of {int(frames[row])}")
    rows, steps, most = logits.shape
    score = logits.log_softmax(-1)
    best = torch.full((rows, most), -torch.inf)
    best[:, 0] = score[:, 0, 0]
    came = torch.zeros(rows, steps, most, dtype=torch.bool)  # whether the frame before belongs to the byte before
    for step in range(1, steps):
        before = pad(best[:, :-1], (1, 0), value=-torch.inf)
        came[:, step] = before > best
        best = torch.maximum(best, before) + score[:, step]
    return durations_of(came, frames, ids)


def durations_of(came: Tensor, frames: Int[Tensor, "R"], ids: Int[Tensor, "R"]) -> Int[Tensor, "R M"]:
    """Walk back from each row's last frame and byte."""
    rows, _, most = came.shape
    found = torch.zeros(rows, most, dtype=torch.int64)
    row, byte = torch.arange(rows), ids - 1
    for step in range(came.shape[1] - 1, -1, -1):
        inside = step < frames
        found[row, byte] += inside
        byte = byte - (came[row, step, byte] & inside & (byte > 0)).long()
    return found
