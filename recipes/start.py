"""Weights to begin a training with, instead of random ones."""

from torch import nn

from zoo.codecs.errors import UserError
from zoo.registry import load


def start(network: nn.Module, checkpoint: str) -> None:
    """Copy the weights of a checkpoint into a network of the same kind and shape.

    Args:
        checkpoint: As `zoo.load` takes it.

    Raises:
        UserError: The checkpoint's network is another kind or has another shape.
    """
    trained = load(checkpoint)
    if type(trained) is not type(network) or trained.config != network.config:
        raise UserError(f"can't start from {checkpoint}: it is {trained.config}, this recipe trains {network.config}")
    network.load_state_dict(trained.state_dict())
