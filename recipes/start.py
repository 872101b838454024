"""Weights to begin a training with, instead of random ones."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.codecs.errors import UserError
from zoo.decoders.embedding import CodeEmbedding, CodeHeads
from zoo.registry import load


def trained(name: str) -> Any:
    """The model of that name, as `zoo.load` takes it, or that of a training run's `last.ckpt`."""
    from zoo.recipes.export import export

    return export(name)[0] if Path(name).suffix == ".ckpt" else load(name)


def start(network: nn.Module, checkpoint: str) -> None:
    """Copy the weights of a checkpoint into a network of the same kind and shape.

    Args:
        checkpoint: See `trained`.

    Raises:
        UserError: The checkpoint's network is another kind or has another shape.
    """
    other = trained(checkpoint)
    if type(other) is not type(network) or other.config != network.config:
        raise UserError(f"can't start from {checkpoint}: it is {other.config}, this recipe trains {network.config}")
    network.load_state_dict(other.state_dict())


@torch.no_grad()
def adapt(network: nn.Module, checkpoint: str) -> None:
    """Copy what a decoder of another kind has in common with a network: a masked one begins with an autoregressive one.

    These are the weights of the same name, and of tables the rows that both have; what is new stays random. (Gong et
    al., "Scaling Diffusion Language Models via Adaptation from Autoregressive Models", arXiv 2410.17891.)

    Args:
        checkpoint: See `trained`.

    Raises:
        UserError: Weights of another width, or fewer than half of the network's there.
    """
    known, copied, size = _parts(trained(checkpoint)), 0, 0
    for name, own in _parts(network).items():
        size += own.numel()
        other = known.get(name)
        if other is None:
            continue
        if own.shape[1:] != other.shape[1:]:
            raise UserError(
                f"can't begin with {checkpoint}: its {name} is {list(other.shape)}, this recipe's {list(own.shape)}; "
                "give both decoders the same width"
            )
        rows = min(len(own), len(other))
        copied += own[:rows].copy_(other[:rows]).numel()
    if copied < size / 2:
        raise UserError(f"can't begin with {checkpoint}: it has {copied} of the {size} weights that this recipe trains")


@torch.no_grad()
def start_as_part(network: nn.Module, other: nn.Module, name: str) -> None:
    """Copy what a smaller network has in common with another one of its kind, such as the first of its layers.

    Args:
        name: Of the other, for errors.

    Raises:
        UserError: A weight that the other one doesn't have, or has in another shape.
    """
    known = dict(other.named_parameters())
    for kind, own in network.named_parameters():
        if kind not in known or known[kind].shape != own.shape:
            theirs = list(known[kind].shape) if kind in known else "not there"
            raise UserError(f"can't begin as a part of {name}: its {kind} is {theirs}, this recipe's {list(own.shape)}")
        own.copy_(known[kind])


def _parts(network: nn.Module) -> dict[str, Tensor]:
    """All weights by name; those of codes are one table for each codebook, without input-only ids."""
    parts: dict[str, Tensor] = dict(network.named_parameters())
    for name, module in network.named_modules():
        if not isinstance(module, CodeEmbedding | CodeHeads):
            continue
        whole = parts.pop(f"{name}.{'table' if isinstance(module, CodeEmbedding) else 'product'}.weight", None)
        if whole is not None:  # not there where it is tied to one that has been here
            tables = zip(whole.split(module.sizes), module.cards, strict=True)
            parts |= {f"{name} of codebook {book}": table[:card] for book, (table, card) in enumerate(tables)}
    return parts
