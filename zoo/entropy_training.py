"""Train the small model of a codec's codes that entropy coding starts from, on token files.

    python -m zoo.entropy_training TOKENS... -o entropy.safetensors

The file belongs beside the weights of the codec; see `zoo.codecs.context`.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.codecs.context import BIAS_STEPS, FRACTION, SOURCES, STEPS, ContextModel
from zoo.codecs.entropy import ABSENT, Digits
from zoo.codecs.errors import UserError
from zoo.container import TokenReader

LEARNING_RATE = 0.03
START = 0.3  # deviation of the vectors before training


class Bilinear(nn.Module):
    """The model of `zoo.codecs.context` in floating point, before it is rounded."""

    def __init__(self, sizes: tuple[int, ...], counts: list[Int[np.ndarray, "code"]], dim: int) -> None:
        super().__init__()
        self.sizes, alphabets = sizes, Digits(sizes).alphabets
        columns, largest = len(alphabets), max(alphabets)
        biases = torch.full((columns, largest), -math.inf)
        for bias, count in zip(biases, counts, strict=True):
            bias[: len(count)] = torch.from_numpy((count + 0.5) / (count.sum() + 0.5 * len(count))).log()
        self.alphabets = alphabets
        self.biases = nn.Parameter(biases)
        self.vectors = nn.Parameter(START * torch.randn(columns, largest, dim))
        self.mixing = nn.Parameter(torch.zeros(columns, SOURCES, dim, dim))
        self.offsets = nn.Parameter(torch.zeros(columns, dim))
        with torch.no_grad():
            self.mixing[:, 0] = 0.1 * torch.eye(dim)

    def forward(self, cells: Int[Tensor, "batch 3 column"]) -> Float[Tensor, "batch column"]:
        """Bits of each code of the cells `[:, 0]`, whose neighbours are `[:, 1:]`; -1 (no code) takes 0 bits."""
        target = cells[:, 0]
        found = self.vectors[torch.arange(target.shape[1]), cells.clamp_min(0)] * (cells >= 0)[..., None]
        coarser = found[:, 0].cumsum(1).roll(1, 1)
        coarser[:, 0] = 0
        near = torch.einsum("bsj,csij->bci", found[:, 1:].sum(2), self.mixing[:, :2])
        mixed = near + torch.einsum("bcj,cij->bci", coarser, self.mixing[:, 2]) + self.offsets
        logits = torch.einsum("bci,cvi->bvc", mixed, self.vectors) + self.biases.T
        return cross_entropy(logits, target, reduction="none", ignore_index=ABSENT) / math.log(2)

    @torch.no_grad()
    def rounded(self) -> ContextModel:
        """The same in whole numbers."""
        unit = float(self.vectors.abs().max()) / 127
        biases = (self.biases + torch.einsum("ci,cvi->cv", self.offsets, self.vectors)) / math.log(2)
        biases -= biases.amax(1, keepdim=True)
        # With vectors in whole units, a logarithm in 1/64 bits is their product with this.
        mixing = self.mixing * (STEPS / math.log(2) * unit**2)
        shift = max(FRACTION, min(31, math.floor(math.log2(32767 / float(mixing.abs().max().clamp_min(1e-9))))))
        return ContextModel(
            self.sizes,
            [(v[:n] / unit).round().to(torch.int8).numpy() for v, n in zip(self.vectors, self.alphabets, strict=True)],
            [
                (b[:n] * BIAS_STEPS).round().clamp(-128, 0).to(torch.int8).numpy()
                for b, n in zip(biases, self.alphabets, strict=True)
            ],
            (mixing * 2**shift).round().clamp(-32767, 32767).to(torch.int16).numpy(),
            shift,
        )


def train(
    sizes: tuple[int, ...],
    grids: Iterable[Int[np.ndarray, "row codebook height width"]],
    dim: int = 6,
    steps: int = 4000,
    batch: int = 256,
    seed: int = 0,
) -> ContextModel:
    """A model of the codes in `grids`; -1 is no code.

    Half of the batches are cut to a random number of codebooks, as files of lower rates are.

    Raises:
        ValueError: No codes at all.
    """
    digits = Digits(sizes)
    cells = np.concatenate([samples(digits.split(grid)) for grid in grids] or [np.empty((0, 3, digits.columns))])
    if not len(cells):
        raise ValueError("there are no codes to train on")
    counts = [np.bincount(cells[:, 0, at][cells[:, 0, at] >= 0], minlength=n) for at, n in enumerate(digits.alphabets)]
    data = torch.from_numpy(cells.astype(np.int32))
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bilinear(sizes, counts, dim)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for step in range(steps):
        some = data[torch.randint(len(data), (batch,), generator=draw)].long()
        if step % 2:
            some[:, :, int(torch.randint(1, digits.columns + 1, (), generator=draw)) :] = ABSENT
        loss = model(some).sum() / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.rounded()


def samples(grid: Int[np.ndarray, "row column height width"]) -> Int[np.ndarray, "cell 3 column"]:
    """Each cell with the two neighbours that `entropy.walk` gives a predictor; -1 where there is none."""
    left = np.full_like(grid, ABSENT)
    left[..., 1:] = grid[..., :-1]
    second = np.full_like(grid, ABSENT)
    if grid.shape[2] == 1:
        second[..., 2:] = grid[..., :-2]
    else:
        second[:, :, 1:] = grid[:, :, :-1]
    return np.stack([grid, left, second]).transpose(1, 3, 4, 0, 2).reshape(-1, 3, grid.shape[1])


def main() -> None:
    parser = ArgumentParser("python -m zoo.entropy_training", description=__doc__)
    parser.add_argument("tokens", nargs="+", type=Path, help="token files of one codec, or folders of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    parser.add_argument("--dim", type=int, default=6, help="numbers in the vector of a code")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    files = sorted(file for path in chosen.tokens for file in (path.rglob("*.ztok") if path.is_dir() else [path]))
    sizes, grids = (), []
    for file in files:
        with TokenReader(file) as reader:
            if len(reader.header.codebook_sizes) > len(sizes):
                sizes = reader.header.codebook_sizes
            grids.append(reader.grid())
    if any(grid.shape[1] != len(sizes) for grid in grids):
        raise UserError("the token files hold different numbers of codebooks; give files of all codebooks")
    model = train(sizes, grids, chosen.dim, chosen.steps, seed=chosen.seed)
    chosen.output.write_bytes(model.pack())
    print(f"{len(files)} files -> {chosen.output}: {chosen.output.stat().st_size} bytes, digest {model.digest[:12]}")


if __name__ == "__main__":
    main()
