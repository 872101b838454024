"""Weights of a decoder parted among devices: fully sharded data parallel training (Zhao et al., arXiv 2304.11277)."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from zoo.decoders.base import TokenModel
from zoo.decoders.transformer import Layer


def shard(decoder: TokenModel, mesh: DeviceMesh) -> None:
    """Part all weights among the devices of a mesh, in place; each layer gathers its own when it runs."""
    for module in decoder.modules():
        if isinstance(module, Layer):
            fully_shard(module, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    for method in ("init_state", "depth"):  # they use weights, too
        register_fsdp_forward_method(decoder, method)
