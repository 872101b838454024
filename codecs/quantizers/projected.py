"""A quantizer of few dimensions between two linear projections that all its codebooks share."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.base import Paths, Quantized, Quantizer
from zoo.codecs.quantizers.levels import flatten, unflatten


class ProjectedQuantizer(Quantizer):
    """Latents of `dim` values to the fewer of another quantizer, and back.

    Lookup-free and scalar quantizers have as many dimensions as their codes have digits: this is how latents of any
    size get there. Cells without any code decode to zeros, so the bias of the way back is for the others only.

    Args:
        inner: Any quantizer with a `dim`.
        dim: Size of a vector.
        bias: Whether the projections have one.
    """

    def __init__(self, inner: Quantizer, dim: int, bias: bool = True):
        super().__init__()
        self.inner, self.dim = inner, dim
        self.codebook_sizes = inner.codebook_sizes
        self.project_in = nn.Linear(dim, inner.dim, bias=bias)
        self.project_out = nn.Linear(inner.dim, dim, bias=bias)

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`."""
        output = self.inner(self._enter(z), n)
        return replace(output, z_q=self._leave(output.z_q, output.codes).to(z.dtype))

    def encode(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None) -> Int[Tensor, "batch codebook *grid"]:
        """See `Quantizer.encode`."""
        with torch.no_grad():
            return self.inner.encode(self._enter(z), n)

    def paths(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1) -> Paths:
        """See `Quantizer.paths`; errors are those of projected latents."""
        with torch.no_grad():
            return self.inner.paths(self._enter(z), n, beam)

    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """See `Quantizer.decode`."""
        with torch.no_grad():
            return self._leave(self.inner.decode(codes), codes)

    def _enter(self, z: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch inner *grid"]:
        with torch.autocast(z.device.type, enabled=False):
            return unflatten(project(self.project_in, flatten(z, self.dim)), z)

    def _leave(
        self, x: Float[Tensor, "batch inner *grid"], codes: Int[Tensor, "batch codebook *grid"]
    ) -> Float[Tensor, "batch dim *grid"]:
        with torch.autocast(x.device.type, enabled=False):
            out = functional.linear(flatten(x, self.inner.dim), self.project_out.weight.float())
            if self.project_out.bias is not None:
                out = out + self.project_out.bias.float() * (codes[:, 0].flatten() >= 0)[:, None]
            return unflatten(out, x)


def project(layer: nn.Linear, x: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector out"]:
    """`layer` in float32, also where a half precision codec holds it in less."""
    bias = None if layer.bias is None else layer.bias.float()
    return functional.linear(x.float(), layer.weight.float(), bias)
