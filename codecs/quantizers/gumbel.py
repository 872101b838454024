"""Gumbel-softmax quantizer: in training, codes are drawn from a learnt distribution; after it, they are its maximum."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.distributed import rank
from zoo.codecs.quantizers.draws import generator
from zoo.codecs.quantizers.index_backpropagation import through_index
from zoo.codecs.quantizers.kmeans import in_slices
from zoo.codecs.quantizers.levels import Level, LevelOutput, mean_square
from zoo.codecs.quantizers.projected import project


class GumbelQuantizer(Level):
    """A linear layer gives the logits of the codes, and an independent codebook their codewords (Jang et al. 2016,
    "Categorical Reparameterization with Gumbel-Softmax"; Baevski et al. 2019, "vq-wav2vec").

    `forward` in train mode draws: its codes are those drawn, and other ones in each step. In eval mode, and in `encode`
    always, the code is the one of the largest logit. Draws are a function of seed, step and rank.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        temperature: Of the softmax over logits and noise; the attribute may be changed while training goes on.
        straight_through: Whether training decodes the code that was drawn, with the gradient of the softmax, or the
            mixture of codewords by the softmax itself.
        kl_weight: Weight of the loss, the mean divergence of the distributions from uniform ones, in nats.
        seed: Of the draws; levels of a stack need different ones.
    """

    passes_gradient = True  # of the softmax
    steps: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        temperature: float = 1.0,
        straight_through: bool = True,
        kl_weight: float = 5e-4,
        seed: int = 0,
    ):
        super().__init__()
        self.dim, self.size, self.start, self.seed = dim, size, None, seed
        self.temperature, self.straight_through, self.kl_weight = temperature, straight_through, kl_weight
        self.logits = nn.Linear(dim, size)
        self.embedding = nn.Parameter(torch.randn(size, dim))
        self.register_buffer("steps", torch.tensor(0))

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """Code of the largest logit."""
        return in_slices(lambda part: project(self.logits, part).argmax(dim=1), x, self.size)

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return functional.embedding(codes, self.embedding).float()

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        logits = project(self.logits, x)
        noisy = logits + self._draw(logits) if self.training else logits
        codes = noisy.argmax(dim=1)
        shares = (noisy / self.temperature).softmax(dim=1)
        if self.training and not self.straight_through:
            q = shares @ self.embedding.float()
        else:
            q = through_index(shares, self.lookup(codes), self.embedding)
        logs = logits.log_softmax(dim=1)
        divergence = (logs.exp() * (logs + math.log(self.size))).sum() / max(1, len(x))
        return LevelOutput.of_batch(q, codes, self.kl_weight * divergence, mean_square(x, q), self.size)

    def _draw(self, logits: Float[Tensor, "vector size"]) -> Float[Tensor, "vector size"]:
        """Gumbel noise of this step."""
        source = generator(self.seed, int(self.steps), stream=1 + rank(), device=logits.device)
        self.steps += 1
        noise = torch.empty_like(logits, requires_grad=False).exponential_(generator=source)
        return -noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
