"""Image tokenizers as their authors published them: files of tensors, whose names and shapes say what they are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from zoo import checkpoint
from zoo.checkpoints.keymaps import LLAMAGEN, VAR, KeyMap, VQGANNames, llamagen, var_vqvae
from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError
from zoo.codecs.image.multi_scale import MultiScaleConfig, MultiScaleVQVAE
from zoo.codecs.image.vqgan import VQGAN, VQGANConfig
from zoo.configs import from_json

Tensors = dict[str, Tensor]
WRAPPERS = ("ema", "model", "state_dict")  # what training put around the tensors; averaged ones are preferred
HITS, PHI = "quantize.ema_vocab_hit_SV", "quantize.quant_resi.qresi_ls.{index}.weight"


def read_tensors(path: Path) -> Tensors:
    """The tensors of a PyTorch file that holds them by name, bare or wrapped; none if it holds something else.

    Nothing but tensors and plain values is unpickled.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception:  # torch raises half a dozen kinds on a file that is damaged or something else
        return {}
    for wrapper in WRAPPERS:
        if isinstance(saved, dict) and isinstance(saved.get(wrapper), dict):
            saved = saved[wrapper]
            break
    whole = isinstance(saved, dict) and all(isinstance(tensor, Tensor) for tensor in saved.values())
    return dict(saved) if whole else {}


def read_published(tensors: Tensors, where: Path) -> Codec | None:
    """The tokenizer that these tensors are; None if they are of no known one.

    Raises:
        UserError: Tensors are missing, left over or of shapes that do not fit each other.
    """
    if PHI.format(index=0) in tensors:
        return read_var(tensors, where)
    if "encoder.conv_blocks.0.res.0.conv1.weight" in tensors:
        return read_llamagen(tensors, where)
    return None


def read_llamagen(tensors: Tensors, where: Path) -> Codec:
    """LlamaGen's tokenizers (`vq_ds16_c2i.pt`, `vq_ds8_c2i.pt`, `vq_ds16_t2i.pt`), whose codes have unit length."""
    shape = network(tensors, LLAMAGEN, where) | {"codebook": "sphere"}
    codec = VQGAN(from_json(VQGANConfig, shape, str(where)))
    return filled(codec, llamagen(len(codec.config.multipliers)), tensors, where)


def read_var(tensors: Tensors, where: Path) -> Codec:
    """VAR's tokenizer (`vae_ch160v4096z32.pth`), for pictures of 256 x 256 pixels.

    The file says how many scales there are, not how large they are, which is known of the ten that it was trained with.
    """
    scales = MultiScaleConfig().scales
    found = shape_of(tensors, HITS, where, 2)[0]
    if found != len(scales):
        raise UserError(f"{where}: has {found} scales of unknown size; only VAR's {len(scales)} can be converted")
    phis = next(index for index in count() if PHI.format(index=index) not in tensors)
    shape = network(tensors, VAR, where) | {"phis": phis}
    codec = MultiScaleVQVAE(from_json(MultiScaleConfig, shape, str(where)))
    return filled(codec, var_vqvae(len(codec.config.multipliers), found), tensors, where)


def network(tensors: Tensors, names: VQGANNames, where: Path) -> dict[str, Any]:
    """Those fields of a `VQGANConfig` that shapes tell; groups of channels are 32, as everywhere in the family."""
    width = shape_of(tensors, "encoder.conv_in.weight", where, 4)[0]
    widths, attention = [], []
    for level, stage in stages(tensors, names):
        widths.append(shape_of(tensors, f"{stage}.{names.block.format(index=0)}.conv1.weight", where, 4)[0])
        if f"{stage}.{names.attention.format(index=0)}.{names.attention_layers[0]}.weight" in tensors:
            attention.append(2**level)
    first = f"encoder.{names.down.format(level=0)}.{names.block}.conv1.weight"
    code_dim, _, kernel, _ = shape_of(tensors, "quant_conv.weight", where, 4)
    return {
        "width": width,
        "multipliers": [some // width for some in widths],
        "blocks": next(index for index in count() if first.format(index=index) not in tensors),
        "attention": attention,
        "middle_attention": f"encoder.{names.middle[1]}.{names.attention_layers[0]}.weight" in tensors,
        "latent": shape_of(tensors, "encoder.conv_out.weight", where, 4)[0],
        "code_dim": code_dim,
        "quant_kernel": kernel,
        "codebook_size": shape_of(tensors, "quantize.embedding.weight", where, 2)[0],
    }


def stages(tensors: Tensors, names: VQGANNames) -> Iterator[tuple[int, str]]:
    """Numbers and names of the encoder's resolutions, fine to coarse."""
    for level in count():
        stage = f"encoder.{names.down.format(level=level)}"
        if not any(name.startswith(stage + ".") for name in tensors):
            return
        yield level, stage


def shape_of(tensors: Tensors, name: str, where: Path, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in tensors or tensors[name].ndim != axes:
        raise UserError(f"{where}: has no tensor {name!r} of {axes} axes; is the file whole? Download it again")
    return tuple(tensors[name].shape)


def filled(codec: Codec, keymap: KeyMap, tensors: Tensors, where: Path) -> Codec:
    """The codec with these foreign weights."""
    checkpoint.load_tensors(codec, checkpoint.translate(keymap, tensors, where), where)
    return codec
