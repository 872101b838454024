"""How weights lie in a file: as they are, in fewer bits a number, or as whole numbers with a scale for each row."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = "#scale"  # behind a matrix' name, the name of its rows' scales
STEPS = 127


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors that stand for one in a file.

    Args:
        dtype: What floating-point tensors of two or more axes become; the others keep their type. A type of whole
            numbers, int8, stores each row (index of the first axis) in steps of a 127th of its largest value, and the
            step beside it. A tensor that has no place in the type, being too large or not finite, stays as it is.
    """
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel():
        largest = tensor.float().abs().flatten(1).amax(1)
        if dtype == torch.int8 and largest.isfinite().all():
            scale = (largest / STEPS).clamp(min=torch.finfo(torch.float32).tiny)
            rows = (tensor.float() / _beside(scale, tensor)).round().to(torch.int8)
            return {name: rows.contiguous(), name + SCALE: scale}
        if dtype.is_floating_point and largest.max() <= torch.finfo(dtype).max:
            tensor = tensor.to(dtype)
    return {name: tensor.contiguous().clone()}


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `stored` was given, as nearly as they were stored.

    Raises:
        ValueError: Scales of no matrix, or of one with other rows.
    """
    scales = {name.removesuffix(SCALE): tensor for name, tensor in tensors.items() if name.endswith(SCALE)}
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name, scale in scales.items():
        if name not in found or found[name].ndim < 2 or scale.shape != found[name].shape[:1]:
            raise ValueError(f"{name}{SCALE} scales no matrix of {len(scale)} rows")
        found[name] = found[name].float() * _beside(scale, found[name])
    return found


def _beside(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.ndim - 1))
