"""Make a directory that `zoo.load` takes from weights that come in another form. Nothing foreign is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo import checkpoint
from zoo.checkpoints.keymaps import encodec
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig
from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError
from zoo.configs import from_json, read_json

# Fields of transformers' EncodecConfig and ours, where only the name differs.
ENCODEC_FIELDS = {
    "sampling_rate": "sample_rate",
    "audio_channels": "channels",
    "upsampling_ratios": "ratios",
    "num_filters": "filters",
    "hidden_size": "dim",
    "kernel_size": "kernel",
    "last_kernel_size": "last_kernel",
    "residual_kernel_size": "residual_kernel",
    "num_residual_layers": "residual_layers",
    "dilation_growth_rate": "dilation_base",
    "compress": "compress",
    "use_conv_shortcut": "shortcut",
    "num_lstm_layers": "lstm_layers",
    "use_causal_conv": "causal",
    "pad_mode": "pad",
    "trim_right_ratio": "trim_right",
    "normalize": "normalize",
    "codebook_size": "codebook_size",
}
NORMS = {"weight_norm": "weight", "time_group_norm": "group"}


def convert(source: str | Path, target: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Write the codec in `source` to the directory `target` and return facts about it.

    Args:
        source: A training checkpoint (`last.ckpt`), or a directory as `transformers.EncodecModel.save_pretrained`
            writes it (safetensors).
        dtype: See `zoo.checkpoint.save`.

    Raises:
        UserError: The source is neither, or damaged.
    """
    source = Path(source)
    if source.is_dir():
        codec, facts = read_encodec(source), {}
    else:
        from zoo.recipes.export import export  # needs Lightning

        codec, facts = export(source)
    return {"directory": str(target), "sha256": checkpoint.save(codec, target, dtype)} | facts


def read_encodec(directory: Path) -> Codec:
    """The codec that transformers saved as an EncodecModel."""
    path = directory / "config.json"
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != "encodec":
        raise UserError(f"{path}: is of no model that can be converted; its model_type must be 'encodec'")
    config = encodec_config(values, str(path))
    codec = SEANetCodec(config).fuse()
    keymap = encodec(config.ratios, config.residual_layers, config.lstm_layers > 0, config.norm == "weight")
    weights = directory / checkpoint.WEIGHTS
    tensors, _ = checkpoint.read_weights(weights)
    checkpoint.load_tensors(codec, checkpoint.translate(keymap, tensors, weights), weights)
    return codec


def encodec_config(values: dict[str, Any], where: str) -> SEANetConfig:
    """Our configuration for transformers' one."""
    fields = {ours: values[theirs] for theirs, ours in ENCODEC_FIELDS.items() if theirs in values}
    fields["norm"] = NORMS.get(values.get("norm_type", "weight_norm"), values.get("norm_type"))
    config = from_json(SEANetConfig, fields, where)
    # EnCodec names its bitrates and derives the codebooks from them, rounding the frame rate up.
    frame_rate = -(-config.sample_rate // config.hop)
    bits = frame_rate * (config.codebook_size - 1).bit_length()
    highest = max(values.get("target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0]))
    return from_json(SEANetConfig, fields | {"codebooks": int(1000 * highest // bits)}, where)
