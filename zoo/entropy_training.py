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

from zoo.codecs.context import BIAS_STEPS, FRACTION, SOURCES, STEPS, ContextModel, alphabets_of
from zoo.codecs.entropy import ABSENT, Digits, Grid, neighbours
from zoo.codecs.errors import UserError
from zoo.container import TokenReader

LEARNING_RATE = 0.03
START = 0.3  # deviation of the vectors before training


class Bilinear(nn.Module):
    """The model of `zoo.codecs.context` in floating point, before it is rounded."""

    def __init__(self, sizes: tuple[int, ...], counts: list[Int[np.ndarray, "code"]], dim: int) -> None:
        super().__init__()
        self.sizes, self.alphabets = sizes, alphabets_of(sizes)
        columns, largest = len(self.alphabets), max(self.alphabets)
        biases = torch.full((columns, largest), -math.inf)
        for bias, count in zip(biases, counts, strict=True):
            bias[: len(count)] = torch.from_numpy((count + 0.5) / (count.sum() + 0.5 * len(count))).log()
        self.biases = nn.Parameter(biases)
        self.vectors = nn.Parameter(START * torch.randn(columns, largest, dim))
        self.mixing = nn.Parameter(torch.zeros(columns, SOURCES, dim, dim))
        self.offsets = nn.Parameter(torch.zeros(columns, dim))
        with torch.no_grad():
            self.mixing[:, 0] = 0.1 * torch.eye(dim)
            for vectors, count in zip(self.vectors, counts, strict=True):
                vectors[: len(count)] *= torch.from_numpy(count > 0)[:, None]  # nothing is said of what never came

    def forward(self, cells: Int[Tensor, "batch 5 column"]) -> Float[Tensor, "batch column"]:
        """Bits of each value of the cells `[:, 0]`, whose neighbours are `[:, 1:]`; -1 (none) takes 0 bits."""
        target = cells[:, 0]
        found = self.vectors[torch.arange(target.shape[1]), cells.clamp_min(0)] * (cells >= 0)[..., None]
        coarser = found[:, 0].cumsum(1).roll(1, 1)
        coarser[:, 0] = 0
        near = torch.einsum("bsj,csij->bci", found[:, 1:].sum(2), self.mixing[:, :-1])
        mixed = near + torch.einsum("bcj,cij->bci", coarser, self.mixing[:, -1]) + self.offsets
        logits = torch.einsum("bci,cvi->bcv", mixed, self.vectors) + self.biases
        nats = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", ignore_index=ABSENT)
        return nats.view(target.shape) / math.log(2)

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
    grids: Iterable[Grid],
    dim: int = 6,
    steps: int = 4000,
    batch: int = 256,
    seed: int = 0,
) -> ContextModel:
    """A model of the codes in `grids` (-1: none), and of the depths of those that have some.

    In half of the batches, cells without a depth are cut to a random number of codebooks, as files of lower rates are.

    Raises:
        ValueError: No codes at all.
    """
    digits = Digits(sizes)
    split = [(digits.split(codes), depth) for codes, depth in grids if codes.size]
    if not split:
        raise ValueError("there are no codes to train on")
    cells, near = samples(split)
    counts = [
        np.bincount(values[values >= 0], minlength=n) for values, n in zip(cells.T, alphabets_of(sizes), strict=True)
    ]
    data, near = torch.from_numpy(cells), torch.from_numpy(near)
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bilinear(sizes, counts, dim)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for step in range(steps):
        chosen = torch.randint(len(near), (batch,), generator=draw)
        some = data[torch.cat([chosen[:, None], near[chosen]], 1)].long()
        if step % 2:
            end = 1 + digits.ends[int(torch.randint(1, len(sizes) + 1, (), generator=draw))]
            some[:, :, end:] = some[:, :, end:].where(some[:, :, :1] >= 0, ABSENT)
        loss = model(some).sum() / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.rounded()


def samples(
    grids: Iterable[Grid],
) -> tuple[Int[np.ndarray, "cell+1 column"], Int[np.ndarray, "cell 4"]]:
    """All cells of grids of columns as `entropy.walk` codes them, and which four are the neighbours of each.

    The last cell has no codes: it stands for those that are not there.
    """
    cells, near, count = [], [], 0
    for codes, depth in grids:
        rows, columns, height, width = codes.shape
        depth = np.full((rows, height, width), ABSENT) if depth is None else depth
        cells.append(np.concatenate([depth[:, None], codes], 1).transpose(0, 2, 3, 1).reshape(-1, columns + 1))
        for row in np.arange(count, count + len(cells[-1])).reshape(rows, height, width).tolist():
            for above, line in zip([[-1] * width, *row], row, strict=False):
                near += [neighbours(line, above if height > 1 else None, x, -1) for x in range(width)]
        count += len(cells[-1])
    return np.concatenate([*cells, np.full((1, columns + 1), ABSENT)]).astype(np.int32), np.array(near)


def main() -> None:
    """Train a model of codes on the token files that the command line names, and write it."""
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
            codes = reader.grid()
            grids.append((codes, (codes >= 0).sum(1) if reader.header.depth else None))
    if any(codes.shape[1] != len(sizes) for codes, _ in grids):
        raise UserError("the token files hold different numbers of codebooks; give files of all codebooks")
    model = train(sizes, grids, chosen.dim, chosen.steps, seed=chosen.seed)
    chosen.output.write_bytes(model.pack())
    print(f"{len(files)} files -> {chosen.output}: {chosen.output.stat().st_size} bytes, digest {model.digest[:12]}")


if __name__ == "__main__":
    main()
