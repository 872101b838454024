"""A model in a directory: `config.json` says what it is, `model.safetensors` holds the weights; no pickle.

Beside those of a decoder or of heads, `tokens.json` and `vocabulary.json` say what its tokens are (`zoo.token_facts`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.checkpoints.keymaps import KEYMAPS, KeyMap
from zoo.codecs.base import Codec
from zoo.codecs.context import FILE as CODE_MODEL
from zoo.codecs.context import ContextModel
from zoo.codecs.errors import UserError
from zoo.configs import from_json, read_json, to_json
from zoo.decoders.base import TokenModel
from zoo.decoders.heads import MultiTokenHeads
from zoo.registry import architecture_class, architecture_of
from zoo.stored_weights import restored, stored
from zoo.token_facts import TokenFacts, contents, read_facts

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Header:
    """Content of `config.json`.

    Attributes:
        format: Version of this layout.
        architecture: Name in `zoo.registry.ARCHITECTURES`.
        config: Every field of the architecture's config.
        sha256: Hex digest of the weights file; "" if it is not to be checked.
    """

    format: int
    architecture: str
    config: dict[str, Any]
    sha256: str = ""


def save(codec: Codec | TokenModel | MultiTokenHeads, directory: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """Write a model to `directory` (made if missing), fused if possible, and return the weights' sha256.

    Args:
        dtype: What floating-point tensors of two or more axes are stored in; float16 halves the file, int8 makes it a
            quarter. Vectors (biases, counters) are small and keep their own type; see `zoo.stored_weights.stored`.

    Raises:
        ValueError: Nobody said what the tokens of a decoder or of heads are.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fused = copy.deepcopy(codec).fuse() if hasattr(codec, "fuse") else codec
    aliases = _aliases(fused)
    tensors: dict[str, Tensor] = {}
    for name, tensor in fused.state_dict().items():
        tensors |= {} if name in aliases else stored(name, tensor, dtype)
    content = safetensors.torch.save(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    header = {"format": FORMAT, "architecture": architecture_of(codec), "config": to_json(codec.config)}
    _replace(directory / WEIGHTS, content)
    for name, text in {}.items() if isinstance(codec, Codec) else _facts(codec).items():
        _replace(directory / name, text.encode())
    _replace(directory / CONFIG, (json.dumps(header | {"sha256": sha256}, indent=2) + "\n").encode())
    return sha256


def load_directory(
    directory: str | Path,
    sha256: str = "",
    device: str | torch.device = "cpu",
    weights: Path | None = None,
    keymap: str = "",
) -> Codec | TokenModel | MultiTokenHeads:
    """The codec, decoder or heads that lie in `directory`, in eval mode.

    Args:
        sha256: Digest that the weights must have, besides the one in `config.json`; "" for any.
        device: Where to put the codec.
        weights: Where the weights are, if not in `directory`.
        keymap: Name in `zoo.checkpoints.keymaps.KEYMAPS` of the map that turns foreign weights into ours.

    Raises:
        UserError: A file is missing, damaged or does not fit the others.
    """
    directory = Path(directory)
    device = usable_device(device)
    header = read_header(directory)
    kind = architecture_class(header.architecture, str(directory / CONFIG))
    config = from_json(kind.config_class, header.config, f"{directory / CONFIG}: config", complete=True)
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away: the caller's seed is not spent on them
        codec = kind(config)
    path = weights or directory / WEIGHTS
    tensors, codec.weights = read_weights(path, {CONFIG: header.sha256, "the manifest": sha256})
    try:
        tensors = restored(tensors)
    except ValueError as error:
        raise UserError(f"{path}: {error}; restore the file") from None
    if keymap:
        tensors = translate(KEYMAPS[keymap], tensors, path)
    load_tensors(codec, tensors, path)
    if not isinstance(codec, Codec):
        codec.tokens = read_facts(directory)
    if (directory / CODE_MODEL).exists():
        codec.code_model = ContextModel.read(directory / CODE_MODEL)
    codec.name = directory.resolve().name.encode("ascii", "backslashreplace").decode()
    return codec.to(device)


def read_weights(path: Path, expected: dict[str, str] | None = None) -> tuple[dict[str, Tensor], str]:
    """Tensors of a safetensors file, and its sha256; `expected`: who says what it must be ("": anything).

    Raises:
        UserError: The file is missing, damaged or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a checkpoint directory needs this file") from None
    sha256 = hashlib.sha256(content).hexdigest()
    for source, digest in (expected or {}).items():
        if digest and digest != sha256:
            raise UserError(
                f"{path}: sha256 is {sha256[:12]}..., {source} says {digest[:12]}...; "
                "the file is damaged or of another checkpoint: restore it"
            )
    try:
        return safetensors.torch.load(content), sha256
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); restore it") from None


def translate(keymap: KeyMap, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Foreign tensors under our names.

    Raises:
        UserError: The map does not fit them.
    """
    try:
        return keymap.read(tensors)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def load_tensors(codec: Codec, tensors: dict[str, Tensor], where: Path) -> None:
    """Fill in all weights, then make the codec ready for use: fused where it can be, in eval mode.

    Raises:
        UserError: Tensors are missing, unexpected or of another shape.
    """
    if hasattr(codec, "fuse") and codec.state_dict().keys() != tensors.keys():
        codec.fuse()  # what `save` writes is fused; foreign weights may not be
    tensors = tensors | {name: tensors[first] for name, first in _aliases(codec).items() if first in tensors}
    try:
        codec.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{where}: {_mismatch(codec.state_dict(), tensors)}") from None
    if hasattr(codec, "fuse"):
        codec.fuse()
    codec.eval()


def read_header(directory: Path) -> Header:
    """What `config.json` in `directory` says."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give one that holds {CONFIG} and {WEIGHTS}")
    path = directory / CONFIG
    values = read_json(path)
    if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: format {values['format']}, this version reads {FORMAT}; update media-token-zoo")
    return from_json(Header, values, str(path))


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        UserError: It has not.
    """
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {str(device)!r} is not usable here; use 'cpu'{_accelerators()}") from None


def _accelerators() -> str:
    return ", 'cuda'" if torch.cuda.is_available() else ""


def _facts(decoder: TokenModel | MultiTokenHeads) -> dict[str, str]:
    if not isinstance(getattr(decoder, "tokens", None), TokenFacts):
        raise ValueError("say first what the decoder's tokens are: decoder.tokens = TokenFacts(layout, ...)")
    return contents(decoder.tokens)


def _aliases(model: nn.Module) -> dict[str, str]:
    """Other names of tied weights, and the name under which they are stored."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first[id(weight)] for name, weight in named if first.setdefault(id(weight), name) != name}


def _mismatch(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    shapes = [
        f"{name} has shape {list(given[name].shape)}, expected {list(wanted[name].shape)}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    problems = (
        ("tensors are missing", wanted.keys() - given.keys()),
        ("tensors are not of this architecture", given.keys() - wanted.keys()),
        ("tensors do not fit the configuration", shapes),
    )
    return "; ".join(f"{problem}: {_few(sorted(names))}" for problem, names in problems if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _replace(path: Path, content: bytes) -> None:
    """Write under another name first: a reader never sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
