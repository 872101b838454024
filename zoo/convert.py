"""Make a directory that `zoo.load` takes from weights that come in another form. Nothing foreign is unpickled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError

from zoo import checkpoint
from zoo.checkpoints.keymaps import DIFFUSERS, JANUS, KeyMap, VQGANNames, encodec, vqgan
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig
from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.vqgan import VQGAN, VQGANConfig
from zoo.configs import from_json, read_json
from zoo.convert_published import filled, read_published, read_tensors
from zoo.decoders.autoregressive import AutoregressiveDecoder
from zoo.decoders.layouts import Parallel
from zoo.decoders.published import LLAMAS, read_directory
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary, published

Fields = TypeVar("Fields")
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


@dataclass(frozen=True)
class VQModelFields:
    """What makes the network of a diffusers VQModel, with the defaults there; of some fields we have one value only."""

    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    mid_block_add_attention: bool = True
    norm_num_groups: int = 32
    latent_channels: int = 3
    vq_embed_dim: int | None = None
    num_vq_embeddings: int = 256
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    act_fn: Literal["silu"] = "silu"
    norm_type: Literal["group"] = "group"


@dataclass(frozen=True)
class JanusFields:
    """The same of a transformers JanusVQVAE."""

    base_channels: int = 128
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    latent_channels: int = 256
    embed_dim: int = 8
    num_embeddings: int = 16384
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    double_latent: Literal[False] = False


def convert(source: str | Path, target: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Write the codec, decoder or heads in `source` to the directory `target` and return facts about it.

    Args:
        source: A training checkpoint (`last.ckpt`), an image tokenizer as the authors of LlamaGen (`vq_ds16_c2i.pt`) or
            VAR (`vae_ch160v4096z32.pth`) published it, or a directory as `save_pretrained` of transformers'
            EncodecModel or JanusVQVAE or diffusers' VQModel writes it (safetensors), or of a transformers model of text
            (Llama, Mistral, Qwen 2 or 3, GPT-2) and its tokenizer.
        dtype: See `zoo.checkpoint.save`.

    Raises:
        UserError: The source is none of these, or damaged, or where the directory is to be there is a file.
    """
    source = Path(source)
    if file := next((place for place in (Path(target), *Path(target).parents) if place.is_file()), None):
        raise UserError(f"{printable(file)}: is a file; name a directory to write")
    if source.is_dir():
        codec, facts = read_foreign(source), {}
    elif (codec := read_published(read_tensors(source), source)) is not None:
        facts = {}
    else:
        from zoo.recipes.export import export  # needs Lightning

        codec, facts = export(source)
    return {"directory": str(target), "sha256": checkpoint.save(codec, target, dtype)} | facts


def read_foreign(directory: Path) -> Codec | AutoregressiveDecoder:
    """The codec or decoder that another library saved in `directory`."""
    path = directory / "config.json"
    values = read_json(path)
    kind = values.get("model_type", values.get("_class_name")) if isinstance(values, dict) else None
    if kind not in READERS:
        known = ", ".join(map(repr, READERS))
        raise UserError(f"{path}: is of no model that can be converted; its model_type or _class_name must be {known}")
    return READERS[kind](directory, values, str(path))


def read_encodec(directory: Path, values: dict[str, Any], where: str) -> Codec:
    """The codec that transformers saved as an EncodecModel."""
    config = encodec_config(values, where)
    keymap = encodec(config.ratios, config.residual_layers, config.lstm_layers > 0, config.norm == "weight")
    return _filled(SEANetCodec(config).fuse(), keymap, directory / checkpoint.WEIGHTS)


def read_vqmodel(directory: Path, values: dict[str, Any], where: str) -> Codec:
    """The codec that diffusers saved as a VQModel."""
    weights = directory / "diffusion_pytorch_model.safetensors"
    return _read_vqgan(vqmodel_config(values, where), DIFFUSERS, weights)


def read_janus(directory: Path, values: dict[str, Any], where: str) -> Codec:
    """The codec that transformers saved as a JanusVQVAE.

    Its `decode` divides codewords by their length, as in training, but its `encode` does not: where codewords differ
    much in length, ours finds other codes, those of the nearest directions.
    """
    return _read_vqgan(janus_config(values, where), JANUS, directory / checkpoint.WEIGHTS)


def read_text_model(directory: Path, values: dict[str, Any], where: str) -> AutoregressiveDecoder:
    """The decoder of text that transformers saved with its tokenizer."""
    vocabulary = read_vocabulary(directory, values, where)
    try:
        decoder = read_directory(directory)
    except KeyError as error:
        raise UserError(f"{where}: lacks {error}; restore the file") from None
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{directory}: {error}") from None
    decoder.tokens = TokenFacts(Parallel((vocabulary.card,)), vocabulary)
    return decoder


def read_vocabulary(directory: Path, values: dict[str, Any], where: str) -> Vocabulary:
    """The vocabulary that `tokenizer.json` and the configuration of a model of text tell."""
    path = directory / "tokenizer.json"
    if not path.exists():
        raise UserError(
            f"{path}: no such file; tokenizers in other files (tokenizer.model, vocab.json) are not read, but"
            " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers makes this one of them"
        )
    tokenizer, card = read_json(path), values.get("vocab_size")
    if not isinstance(tokenizer, dict):
        raise UserError(f"{path}: holds no tokenizer; restore the file")
    if not isinstance(card, int):
        raise UserError(f"{where}: vocab_size must be a number of tokens, got {card!r}")
    end = _end(directory, tokenizer, values, where)
    try:
        return published(tokenizer, card, end)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _end(directory: Path, tokenizer: dict[str, Any], values: dict[str, Any], where: str) -> int:
    """The token behind a text; of several, the one that the tokenizer calls so (in chats, that behind an answer)."""
    given = values.get("eos_token_id")
    ends: list[Any] = given if isinstance(given, list) else [given]
    if not ends or not all(isinstance(end, int) for end in ends):
        raise UserError(f"{where}: eos_token_id must be the token behind a text, got {given!r}")
    path = directory / "tokenizer_config.json"
    named = read_json(path).get("eos_token") if len(ends) > 1 and path.exists() else None
    name = named.get("content") if isinstance(named, dict) else named
    called = [token["id"] for token in tokenizer.get("added_tokens", []) if token["content"] == name]
    return next((end for end in ends if end in called), ends[0])


TEXT_MODELS = dict.fromkeys((*LLAMAS, "gpt2"), read_text_model)
READERS = {"encodec": read_encodec, "janus_vqgan": read_janus, "VQModel": read_vqmodel} | TEXT_MODELS


def _read_vqgan(config: VQGANConfig, names: VQGANNames, weights: Path) -> Codec:
    return _filled(VQGAN(config), vqgan(len(config.multipliers), names), weights)


def _filled(codec: Codec, keymap: KeyMap, weights: Path) -> Codec:
    """`codec` with the foreign weights in that file."""
    tensors, _ = checkpoint.read_weights(weights)
    return filled(codec, keymap, tensors, weights)


def encodec_config(values: dict[str, Any], where: str) -> SEANetConfig:
    """Our configuration for transformers' one."""
    known = {ours: values[theirs] for theirs, ours in ENCODEC_FIELDS.items() if theirs in values}
    known["norm"] = NORMS.get(values.get("norm_type", "weight_norm"), values.get("norm_type"))
    config = from_json(SEANetConfig, known, where)
    # EnCodec names its bitrates and derives the codebooks from them, rounding the frame rate up.
    frame_rate = -(-config.sample_rate // config.hop)
    bits = frame_rate * (config.codebook_size - 1).bit_length()
    highest = max(values.get("target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0]))
    return from_json(SEANetConfig, known | {"codebooks": int(1000 * highest // bits)}, where)


def vqmodel_config(values: dict[str, Any], where: str) -> VQGANConfig:
    """Our configuration for that of diffusers."""
    theirs = _fields(VQModelFields, values, where)
    attentive = [kind.startswith("Attn") for kind in theirs.down_block_types]
    if [kind.startswith("Attn") for kind in theirs.up_block_types] != attentive[::-1]:
        raise UserError(f"{where}: up_block_types must mirror down_block_types, got {theirs.up_block_types}")
    widths = theirs.block_out_channels
    if len(widths) != len(attentive) or not all(widths) or any(width % widths[0] for width in widths):
        raise UserError(f"{where}: block_out_channels must be a multiple of the first for each block, got {widths}")
    ours = {
        "width": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": theirs.layers_per_block,
        "attention": [2**level for level, on in enumerate(attentive) if on],
        "middle_attention": theirs.mid_block_add_attention,
        "groups": theirs.norm_num_groups,
        "latent": theirs.latent_channels,
        "code_dim": theirs.vq_embed_dim or theirs.latent_channels,
        "codebook": "learned",
        "codebook_size": theirs.num_vq_embeddings,
    }
    return from_json(VQGANConfig, ours, where)


def janus_config(values: dict[str, Any], where: str) -> VQGANConfig:
    """Our configuration for that of transformers' JanusVQVAE; attention is where the picture is smallest."""
    theirs = _fields(JanusFields, values, where)
    ours = {
        "width": theirs.base_channels,
        "multipliers": theirs.channel_multiplier,
        "blocks": theirs.num_res_blocks,
        "attention": [2 ** (len(theirs.channel_multiplier) - 1)],
        "latent": theirs.latent_channels,
        "code_dim": theirs.embed_dim,
        "codebook": "sphere",
        "codebook_size": theirs.num_embeddings,
    }
    return from_json(VQGANConfig, ours, where)


def _fields(kind: type[Fields], values: dict[str, Any], where: str) -> Fields:
    """Those values of a foreign configuration that `kind` has fields for."""
    return from_json(kind, {field.name: values[field.name] for field in fields(kind) if field.name in values}, where)
