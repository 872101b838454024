"""A codec in a directory: `config.json` says what it is, `model.safetensors` holds the weights; no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from zoo.codecs.base import AudioCodec
from zoo.codecs.errors import UserError
from zoo.configs import from_json, read_json, to_json
from zoo.registry import architecture_class, architecture_of

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


def save(codec: AudioCodec, directory: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """Write the codec to `directory` (made if missing), fused where it can be, and return the weights' sha256.

    Args:
        dtype: What floating-point tensors of two or more axes are stored in; float16 halves the file. Vectors
            (biases, counters) are small and keep their own type, and so do tensors beyond the range of `dtype`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor, dtype) for name, tensor in _fused_state(codec).items()}
    content = safetensors.torch.save(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    header = {"format": FORMAT, "architecture": architecture_of(codec), "config": to_json(codec.config)}
    _replace(directory / WEIGHTS, content)
    _replace(directory / CONFIG, (json.dumps(header | {"sha256": sha256}, indent=2) + "\n").encode())
    return sha256


def load_directory(directory: str | Path, sha256: str = "", device: str | torch.device = "cpu") -> AudioCodec:
    """The codec that lies in `directory`, in eval mode.

    Args:
        sha256: Digest that the weights must have, besides the one in `config.json`; "" for any.

    Raises:
        UserError: A file is missing, damaged or does not fit the others.
    """
    directory = Path(directory)
    device = usable_device(device)
    header = read_header(directory)
    codec = _build(header, directory / CONFIG)
    path = directory / WEIGHTS
    content = _read(path)
    codec.weights = hashlib.sha256(content).hexdigest()
    for source, expected in ((CONFIG, header.sha256), ("the manifest", sha256)):
        if expected and expected != codec.weights:
            raise UserError(
                f"{path}: sha256 is {codec.weights[:12]}..., {source} says {expected[:12]}...; "
                "the file is damaged or of another checkpoint: restore it"
            )
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); restore it") from None
    load_tensors(codec, tensors, str(path))
    codec.name = directory.resolve().name.encode("ascii", "backslashreplace").decode()
    return codec.to(device)


def load_tensors(codec: AudioCodec, tensors: dict[str, Tensor], where: str) -> None:
    """Fill in all weights, then make the codec ready for use: fused where it can be, in eval mode.

    Raises:
        UserError: Tensors are missing, unexpected or of another shape.
    """
    if hasattr(codec, "fuse") and codec.state_dict().keys() != tensors.keys():
        codec.fuse()  # what `save` writes is fused; foreign weights may not be
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


def _build(header: Header, path: Path) -> AudioCodec:
    kind = architecture_class(header.architecture, str(path))
    return _new(kind, from_json(kind.config_class, header.config, f"{path}: config", complete=True))


def _new(kind: type[AudioCodec], config: Any) -> AudioCodec:
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away: the caller's seed is not spent on them
        return kind(config)


def _fused_state(codec: AudioCodec) -> dict[str, Tensor]:
    """What the codec would hold after `fuse`; it stays as it is.

    A deep copy will not do: a copy shares the class of its parametrized modules, and `fuse` changes that class.
    """
    state = codec.state_dict()
    if hasattr(codec, "fuse"):
        twin = _new(type(codec), codec.config)
        if twin.state_dict().keys() == state.keys():
            twin.load_state_dict(state)
            twin.fuse()
            return twin.state_dict()
    return state


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


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.ndim >= 2 and (tensor.abs() <= torch.finfo(dtype).max).all():
        tensor = tensor.to(dtype)
    return tensor.contiguous().clone()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a checkpoint directory needs this file") from None


def _replace(path: Path, content: bytes) -> None:
    """Write under another name first: a reader never sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
