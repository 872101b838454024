"""The codec that a training checkpoint holds, with the averaged weights that validation measured."""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch

from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError


def export(checkpoint: str | Path) -> tuple[Codec, dict[str, Any]]:
    """The codec in eval mode, and facts about its training: `steps` done and the `seed`.

    The checkpoint itself is the other half: it holds what it takes to train on (live weights, discriminators,
    optimizers, counters) and, like here, needs nothing unpickled but tensors and plain values.

    Raises:
        UserError: No such file, or not a checkpoint of `CodecRecipe`.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the last.ckpt of a training run")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        description, state = saved["codec"], saved["state_dict"]
    except Exception as error:  # torch raises half a dozen kinds on a file that is damaged or something else
        raise UserError(f"{path}: not a checkpoint of a codec recipe ({type(error).__name__}: {error})") from None
    kind = _codec_class(description["class_path"], path)
    codec = kind(_config(kind.config_class, description["config"]))
    prefix = "average.module."
    codec.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return codec.eval(), {"steps": int(state["step"]), "seed": description["seed"]}


def _codec_class(class_path: str, path: Path) -> type[Codec]:
    module, _, name = class_path.rpartition(".")
    try:
        if not module.startswith("zoo.codecs."):  # a file must not choose what code is imported
            raise ImportError("not a codec of this package")
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}: holds weights of {class_path}, which is not at hand here ({error})") from None
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise UserError(f"{path}: holds weights of {class_path}, which is no codec")
    return kind


def _config(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass that `asdict` turned into `values`."""
    hints = get_type_hints(kind)
    nested = [field.name for field in fields(kind) if is_dataclass(hints[field.name])]
    return kind(**values | {name: _config(hints[name], values[name]) for name in nested})
