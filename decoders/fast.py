"""Weights laid out for decoding: the same numbers in the order in which products with one row read them fastest."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def for_decoding(model: Model) -> Model:
    """Store the matrices of linear layers along their longer axis, in place; returns the model.

    Shapes, names and values stay; matrices of more outputs than inputs, as of heads, are then stored by columns. On a
    CPU, products with a few rows become up to twice as fast, those of large batches no slower. An embedding that shares
    its matrix with a head looks its rows up in it all the same.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features > module.in_features:
            module.weight.data = module.weight.data.T.contiguous().T
    return model
