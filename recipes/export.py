"""The codec, decoder or heads that a training checkpoint holds, with the averaged weights that validation measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError
from zoo.configs import from_json
from zoo.decoders.base import TokenModel
from zoo.decoders.heads import MultiTokenHeads
from zoo.token_facts import facts_from_json


def export(checkpoint: str | Path) -> tuple[Codec | TokenModel | MultiTokenHeads, dict[str, Any]]:
    """The codec, decoder or heads in eval mode, and facts about its training: `steps` done and the `seed`.

    The checkpoint itself is the other half: it holds what it takes to train on (live weights, discriminators,
    optimizers, counters) and, like here, needs nothing unpickled but tensors and plain values.

    Raises:
        UserError: No such file, or not a checkpoint of `CodecRecipe` or a `TokenRecipe`.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the last.ckpt of a training run")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        description, state = saved["codec"] if "codec" in saved else saved["decoder"], saved["state_dict"]
    except Exception as error:  # torch raises half a dozen kinds on a file that is damaged or something else
        raise UserError(f"{path}: not a checkpoint of a recipe ({type(error).__name__}: {error})") from None
    kind = _class(description["class_path"], path)
    model = kind(from_json(kind.config_class, description["config"], f"{path}: config"))
    prefix = "average.module."
    model.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    if not isinstance(model, Codec):
        model.tokens = facts_from_json(description["tokens"], f"{path}: tokens")
    return model.eval(), {"steps": int(state["step"]), "seed": description["seed"]}


def _class(class_path: str, path: Path) -> type[Codec] | type[TokenModel] | type[MultiTokenHeads]:
    module, _, name = class_path.rpartition(".")
    try:
        if not module.startswith(("zoo.codecs.", "zoo.decoders.")):  # a file must not choose what code is imported
            raise ImportError("not a codec or decoder of this package")
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}: holds weights of {class_path}, which is not at hand here ({error})") from None
    known = (Codec, TokenModel, MultiTokenHeads)
    if not (isinstance(kind, type) and issubclass(kind, known) and hasattr(kind, "config_class")):
        raise UserError(f"{path}: holds weights of {class_path}, which is no codec, decoder or heads")
    return kind
