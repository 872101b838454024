"""How fast our residual quantizer is beside vector-quantize-pytorch's: same codebooks and latents, one process.

python -m zoo.bench quantizers --json out.json
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from zoo.bench import compare, deliver, head
from zoo.codecs.errors import UserError
from zoo.codecs.quantizers import ResidualVectorQuantizer, residual_vq
from zoo.scoring import conditions

SHRINK = 0.9  # of the codewords from level to level, so that each has something to do
THEIRS = "vector-quantize-pytorch"


def bench_quantizers(
    output: str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    as_json: bool = False,
    *,
    levels: int = 8,
    size: int = 1024,
    shape: tuple[int, int, int] = (8, 750, 128),
    repeats: int = 7,
    threads: tuple[int, ...] = (1, 2),
) -> dict[str, Any]:
    """Measure our residual vector quantizer beside `vector_quantize_pytorch.ResidualVQ`; print a table or JSON.

    Both learn by moving averages in train mode, without restarts, and pass the decoder's gradient straight through.

    Args:
        output: Write the result here too, as JSON.
        device: Where both compute.
        seed: Of codebooks and latents.
        levels, size: Number of codebooks and codes of each.
        shape: Clips, frames and dimensions of the latents.
        repeats: Runs of each; the medians are compared.
        threads: Numbers of threads to measure with.

    Raises:
        UserError: vector-quantize-pytorch is not installed.
    """
    theirs, ours = (quantizer.to(device) for quantizer in same_codebooks(levels, size, shape[2], seed))
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)
    agreement = _agreement(theirs, ours, z)
    before = torch.get_num_threads()
    try:
        rows = [_measure(theirs, ours, z, count, repeats) for count in threads]
    finally:
        torch.set_num_threads(before)
    facts = conditions(1, device)
    result = {
        **head(facts),
        "versions": facts["versions"] | {THEIRS: version(THEIRS)},
        "what": "wall and CPU seconds of one process, medians of interleaved runs; CPU seconds leave out the time in "
        f"which other processes had the processor. ratio: {THEIRS} / ours. encode: codes alone, for which theirs has "
        "no call of its own and runs its forward without gradients; forward: in eval mode, without gradients; train: "
        "forward with moving averages, and backward to the latents",
        "levels": levels,
        "codes": size,
        "latents": list(shape),
        "seed": seed,
        "repeats": repeats,
        "agreement": agreement,
        "rows": rows,
    }
    return deliver(result, [_table(rows)], output, as_json)


def same_codebooks(levels: int, size: int, dim: int, seed: int) -> tuple[nn.Module, ResidualVectorQuantizer]:
    """A `vector_quantize_pytorch.ResidualVQ` and our quantizer with the same random codewords."""
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ImportError:
        raise UserError(f"{THEIRS} is not installed; pip install {THEIRS}") from None
    ours = residual_vq(dim, size, levels, restart_threshold=0.0, seed=seed)
    theirs = ResidualVQ(
        dim=dim, num_quantizers=levels, codebook_size=size, decay=ours.levels[0].decay, rotation_trick=False
    )
    for index, (level, layer) in enumerate(zip(ours.levels, theirs.layers, strict=True)):
        level.start_from(level.embedding * SHRINK**index, torch.ones(size))
        copy_codewords(layer, level.embedding)
    return theirs, ours


@torch.no_grad()
def copy_codewords(layer: nn.Module, codewords: Tensor) -> None:
    """Give one of their codebooks these codewords, each with the weight of one vector."""
    book = layer._codebook
    book.embed.copy_(codewords[None])
    book.embed_avg.copy_(codewords[None])
    book.cluster_size.fill_(1)
    book.initted.fill_(True)


def _agreement(theirs: nn.Module, ours: ResidualVectorQuantizer, z: Tensor) -> dict[str, Any]:
    """Do both compute the same?"""
    with torch.no_grad():
        latents, codes, _ = theirs.eval()(z)
        output = ours.eval()(z.movedim(1, 2))
    return {
        "codes_equal": torch.equal(ours.encode(z.movedim(1, 2)).movedim(1, 2), codes),
        "codes_used": int(codes.unique().numel()),
        "largest_difference": float((output.z_q.movedim(1, 2) - latents).abs().max()),
        "deviation_of_latents": float(latents.std()),
    }


def _measure(theirs: nn.Module, ours: ResidualVectorQuantizer, z: Tensor, threads: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    row: dict[str, Any] = {"threads": threads, "load_average": os.getloadavg()[0]}
    for name, runs in _tasks(theirs, ours, z).items():
        for quantizer in (theirs, ours):
            quantizer.train(name == "train")
        with torch.set_grad_enabled(name == "train"):
            row[name] = compare(runs, (THEIRS, "ours"), repeats, z.device)
    return row


def _tasks(
    theirs: nn.Module, ours: ResidualVectorQuantizer, z: Tensor
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What is timed: theirs and ours, each on the layout of its own."""
    rows, columns = z.clone().requires_grad_(), z.movedim(1, 2).contiguous().requires_grad_()

    def train_theirs() -> None:
        latents, _, losses = theirs(rows)
        (latents.sum() + losses.mean()).backward()

    def train_ours() -> None:
        output = ours(columns)
        (output.z_q.sum() + output.loss).backward()

    return {
        "encode": (lambda: theirs(rows), lambda: ours.encode(columns)),
        "forward": (lambda: theirs(rows), lambda: ours(columns)),
        "train": (train_theirs, train_ours),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("threads", "task", "theirs, CPU s", "ours, CPU s", "ratio, CPU", "ratio, wall")
    for row in rows:
        for task in ("encode", "forward", "train"):
            times = [f"{row[task][side]['cpu']:.3f}" for side in (THEIRS, "ours")]
            ratios = [f"{row[task]['ratio'][kind]:.2f}" for kind in ("cpu", "wall")]
            table.add_row(str(row["threads"]), task, *times, *ratios)
    return table
