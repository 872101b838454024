"""Weights of a decoder parted among devices: fully sharded data parallel training (Zhao et al., arXiv 2304.11277)."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from zoo.decoders.base import TokenModel


def shard(decoder: TokenModel, mesh: DeviceMesh) -> None:
    """Part weights, gradients and what optimizers remember among the devices of a mesh, in place.

    The weights are gathered whole when the decoder runs: not layer by layer, as `init_state` needs those of all layers.
    """
    fully_shard(decoder, mesh=mesh)
    for method in filter(lambda name: hasattr(decoder, name), ("init_state", "depth", "duration_loss")):
        # they use weights as `forward` does
        register_fsdp_forward_method(decoder, method)
