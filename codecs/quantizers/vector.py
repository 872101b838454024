"""Vector quantizer whose codebook is a moving average of the vectors it is nearest to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.quantizers.distributed import gather_rows, rank, sum_over_ranks
from zoo.codecs.quantizers.draws import generator
from zoo.codecs.quantizers.kmeans import KMeansStart, cluster_sums, nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, mean_square, perplexity
from zoo.codecs.quantizers.rotation import Gradient, known

FLOOR = 1e-20  # counts under it can't be divided by without loss; such codes keep their codeword


class VectorQuantizer(Level):
    """One codebook that learns by exponential moving averages, in train mode, from the vectors of all ranks.

    Its state is the codewords and their average counts: a codeword is the running mean of the vectors that chose it,
    so the running sum is their product and need not be stored, nor can it contradict them. A code is dead if its
    average count is under `restart_threshold` times the mean count of all codes; it moves onto a random vector of the
    batch and gets the mean count, so that it has the time of about `log(1 / restart_threshold) / (1 - decay)` batches
    to find vectors. Counts start at zero, so a fresh codebook restarts on the first batch wherever no vector chose it.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        decay: Of the moving averages.
        kmeans_vectors: Start the codebook by k-means on so many vectors, gathered over the first forward passes in
            train mode, which leave `z` as it is meanwhile; 0: start from normal random codewords.
        restart_threshold: Share of the mean count under which a code is dead; 0: codes never restart.
        seed: Of the start and the restarts.
        gradient: How the decoder's gradient reaches the latents; see `carry`.

    The loss is the plain mean squared distance between `z` and its codewords; a recipe weighs it.
    """

    embedding: Tensor
    counts: Tensor
    steps: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        decay: float = 0.99,
        kmeans_vectors: int = 0,
        restart_threshold: float = 0.03,
        seed: int = 0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__()
        if kmeans_vectors and kmeans_vectors < size:
            raise ValueError(f"kmeans_vectors must be 0 or at least the {size} codes, got {kmeans_vectors}")
        self.dim, self.size, self.decay, self.restart_threshold, self.seed = dim, size, decay, restart_threshold, seed
        self.gradient = known(gradient)
        self.start = KMeansStart(dim, kmeans_vectors, seed) if kmeans_vectors else None
        self.register_buffer("embedding", torch.randn(size, dim, generator=generator(seed, 0)))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("steps", torch.tensor(0))

    def start_from(self, codewords: Float[Tensor, "size dim"], counts: Float[Tensor, "size"]) -> None:
        """Replace the codebook; `counts` say what each codeword weighs against the vectors of a batch."""
        self.embedding.copy_(codewords)
        self.counts.copy_(counts)

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return nearest(x, self.embedding.float())

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return self.embedding.index_select(0, codes).float()

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        q = self.lookup(codes)
        commitment = mean_square(x, q)
        sums, counts = cluster_sums(x.detach(), codes, self.size)
        restarted = self._learn(x.detach(), sums, counts) if self.training else counts.new_zeros(())
        return LevelOutput(q, codes, commitment, commitment, perplexity(counts), self._used(), restarted)

    @torch.no_grad()
    def _learn(
        self, x: Float[Tensor, "vector dim"], sums: Float[Tensor, "size dim"], counts: Float[Tensor, "size"]
    ) -> Float[Tensor, ""]:
        """Move the averages and restart dead codes; returns how many. Every rank comes to the same codebook."""
        sums, counts = sum_over_ranks(sums, counts)
        self.steps += 1
        if not counts.any():  # nobody used this level: nothing to learn, and no reason to call its codes dead
            return counts.new_zeros(())
        sums = torch.lerp(self.embedding * self.counts[:, None], sums, 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        weights = self.counts[:, None]
        self.embedding.copy_(torch.where(weights > FLOOR, sums / weights.clamp(min=FLOOR), self.embedding))
        return self._restart(x)

    def _restart(self, x: Float[Tensor, "vector dim"]) -> Float[Tensor, ""]:
        """Put dead codes onto vectors of the batch, in averages and codebook alike, so that it lasts."""
        dead = (~self._alive()).nonzero().flatten()
        if not len(dead):
            return self.counts.new_zeros(())
        step = int(self.steps)
        order = torch.randperm(len(x), generator=generator(self.seed, step, stream=1 + rank()))
        candidates = gather_rows(x[order[: len(dead)].to(x.device)])
        order = torch.randperm(len(candidates), generator=generator(self.seed, step))
        chosen = candidates[order[: len(dead)].to(x.device)]
        dead = dead[: len(chosen)]  # each vector restarts one code at most: two on one spot could never part
        self.embedding[dead] = chosen
        self.counts[dead] = self.counts.mean()
        return self.counts.new_tensor(float(len(dead)))

    def _alive(self) -> Tensor:
        return self.counts >= self.restart_threshold * self.counts.mean()

    def _used(self) -> Float[Tensor, ""]:
        return (self._alive() & (self.counts > 0)).float().mean()
