"""The few collectives that keep codebooks bit-identical on all ranks; without a process group they do nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def active() -> bool:
    """True if there is more than one process to agree with."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Number of this process, 0 if it is the only one."""
    return distributed.get_rank() if active() else 0


def sum_over_ranks(*tensors: Tensor) -> list[Tensor]:
    """Sums of tensors of one dtype over all ranks, in one collective."""
    if not active():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def gather_rows(rows: Float[Tensor, "row dim"]) -> Float[Tensor, "all_rows dim"]:
    """Rows of all ranks in the order of ranks; each rank may bring another number of them, also none."""
    if not active():
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    padded = rows.new_zeros(int(max(counts)), rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def copy_from_first_rank(*tensors: Tensor) -> None:
    """Overwrite tensors by those of rank 0."""
    if active():
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
