"""Every model by name: `architecture.tag` for bundled checkpoints, a directory, or `hf-hub:user/repo@revision`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import checkpoints
from zoo.codecs.errors import UserError
from zoo.configs import from_json, read_json, suggestion

if TYPE_CHECKING:
    import torch

    from zoo.codecs.base import Codec
    from zoo.decoders.base import TokenModel
    from zoo.decoders.heads import MultiTokenHeads

HUB = "hf-hub:"
ARCHITECTURES = {
    "spectral": "zoo.codecs.audio.spectral:SpectralCodec",
    "seanet": "zoo.codecs.audio.seanet:SEANetCodec",
    "vqgan": "zoo.codecs.image.vqgan:VQGAN",
    "magvit2": "zoo.codecs.image.magvit2:MAGVIT2",
    "ibq": "zoo.codecs.image.ibq:IBQ",
    "cosmos": "zoo.codecs.image.cosmos:Cosmos",
    "titok": "zoo.codecs.image.titok:TiTok",
    "vit-vqgan": "zoo.codecs.image.vit_vqgan:ViTVQGAN",
    "rqvae": "zoo.codecs.image.rqvae:RQVAE",
    "var-vqvae": "zoo.codecs.image.multi_scale:MultiScaleVQVAE",
    "variable": "zoo.codecs.image.variable:VariableCodec",
    "autoregressive": "zoo.decoders.autoregressive:AutoregressiveDecoder",
    "conditioned": "zoo.decoders.conditioned:ConditionedAutoregressive",
    "encoder-decoder": "zoo.decoders.encoder_decoder:EncoderDecoder",
    "zipper": "zoo.decoders.zipper:Zipper",
    "ctc": "zoo.decoders.ctc:CTCDecoder",
    "directed-acyclic": "zoo.decoders.directed_acyclic:DirectedAcyclicDecoder",
    "masked": "zoo.decoders.masked:MaskedDecoder",
    "conditioned-masked": "zoo.decoders.conditioned:ConditionedMasked",
    "depth": "zoo.decoders.depth:DepthDecoder",
    "conditioned-depth": "zoo.decoders.conditioned:ConditionedDepth",
    "next-scale": "zoo.decoders.next_scale:NextScaleDecoder",
    "conditioned-next-scale": "zoo.decoders.conditioned:ConditionedNextScale",
    "two-stage": "zoo.decoders.two_stage:TwoStageDecoder",
    "heads": "zoo.decoders.heads:MultiTokenHeads",
}


@dataclass(frozen=True)
class Metric:
    """A reference figure and what it was measured on."""

    name: str
    value: float
    conditions: str


@dataclass(frozen=True)
class Manifest:
    """Facts about one checkpoint, as `manifest.json` beside it states them.

    Attributes:
        name: `architecture.tag`.
        description: What it is for, in a sentence.
        licence: Licence of the weights.
        sha256: Hex digest of the weights file.
        parameters: Number of trainable scalars.
        repository: Hub repository (`user/repo`) of weights that do not ship with the project.
        file, revision: The weights' file there, and the commit.
        keymap: Key map in `zoo.checkpoints.keymaps` that renames foreign weights.
        paper: Address of the paper.
        credits: Whom to thank: data, weights, ideas.
        metrics: Reference figures.
    """

    name: str
    description: str
    licence: str
    sha256: str
    parameters: int
    repository: str = ""
    file: str = "model.safetensors"
    revision: str = ""
    keymap: str = ""
    paper: str = ""
    credits: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @property
    def architecture(self) -> str:
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the bundled checkpoints that match the shell pattern, sorted."""
    return [name for name in checkpoints.names() if fnmatchcase(name, pattern)]


def info(name: str) -> Manifest:
    """The manifest of a bundled checkpoint.

    Raises:
        UserError: There is no such checkpoint.
    """
    if name not in checkpoints.names():
        raise UserError(f"unknown model {name!r}{suggestion(name, checkpoints.names())}")
    return read_manifest(checkpoints.folder(name))


def create(architecture: str, **config: Any) -> Codec | TokenModel | MultiTokenHeads:
    """A model with random weights; `config` changes fields of the architecture's default configuration.

    Raises:
        UserError: Unknown architecture or field, or a value that does not fit.
    """
    kind = architecture_class(architecture)
    return kind(from_json(kind.config_class, config, architecture))


def load(name: str | Path, device: str | torch.device = "cpu") -> Codec | TokenModel | MultiTokenHeads:
    """The codec, decoder or heads of that name with trained weights, in eval mode.

    Args:
        name: A bundled name (these come first), a directory that holds `config.json` and `model.safetensors`, or
            `hf-hub:user/repo@revision` (default revision: main).
        device: Where to put it.

    Raises:
        UserError: There is no such model, or its files are damaged or cannot be had.
    """
    from zoo.checkpoint import load_directory

    text = str(name)
    if text.startswith(HUB):
        from zoo.hub import download

        directory = download(text)
        try:
            codec = load_directory(directory, _digest(directory), device)
        except UserError as error:
            cached = directory.parents[1]
            raise UserError(f"{text}: {error}; if the download is at fault, delete {cached} and load again") from None
        codec.name = text
        return codec
    if isinstance(name, str) and name in checkpoints.names():
        return _load_bundled(info(name), device)
    directory = Path(name).expanduser()
    if directory.is_dir():
        return load_directory(directory, _digest(directory), device)
    hint = suggestion(text, checkpoints.names())
    raise UserError(f"no model {text!r}: neither bundled nor a directory nor {HUB}user/repo@revision{hint}")


def load_codec(name: str | Path, device: str | torch.device = "cpu") -> Codec:
    """As `load`, of models that turn media into tokens.

    Raises:
        UserError: Also, the model is none.
    """
    from zoo.codecs.base import Codec

    model = load(name, device)
    if not isinstance(model, Codec):
        raise UserError(f"{name} {_described(model)}; give a codec, which makes tokens of media")
    return model


def load_decoder(name: str | Path, device: str | torch.device = "cpu") -> TokenModel:
    """As `load`, of models that continue tokens.

    Raises:
        UserError: Also, the model is none.
    """
    from zoo.decoders.base import TokenModel

    model = load(name, device)
    if not isinstance(model, TokenModel):
        raise UserError(f"{name} {_described(model)}; give a decoder, which makes tokens")
    return model


def load_heads(name: str | Path, device: str | torch.device = "cpu") -> MultiTokenHeads:
    """As `load`, of heads that draft for a decoder.

    Raises:
        UserError: Also, the model is something else.
    """
    from zoo.decoders.heads import MultiTokenHeads

    model = load(name, device)
    if not isinstance(model, MultiTokenHeads):
        raise UserError(f"{name} {_described(model)}; give heads, which look ahead from a decoder's hidden states")
    return model


def _described(model: Codec | TokenModel | MultiTokenHeads) -> str:
    from zoo.codecs.base import Codec
    from zoo.decoders.base import TokenModel

    if isinstance(model, Codec):
        return "is a codec, which turns media into tokens and back: `zoo tokenize`, `zoo reconstruct`"
    if isinstance(model, TokenModel):
        return "is a decoder, which continues tokens: `zoo generate`"
    return "holds heads, which draft for a decoder: `zoo generate DECODER --proposer heads:NAME`"


def read_manifest(directory: Path) -> Manifest:
    """The manifest in a checkpoint's directory."""
    path = directory / "manifest.json"
    return from_json(Manifest, read_json(path), str(path))


def architecture_class(architecture: str, where: str = "zoo") -> type[Codec] | type[TokenModel] | type[MultiTokenHeads]:
    """The class of that name; its module is imported only now."""
    if architecture not in ARCHITECTURES:
        raise UserError(f"{where}: unknown architecture {architecture!r}{suggestion(architecture, ARCHITECTURES)}")
    module, _, kind = ARCHITECTURES[architecture].partition(":")
    return getattr(import_module(module), kind)


def architecture_of(codec: Codec | TokenModel | MultiTokenHeads) -> str:
    """Name under which the class of a model is registered."""
    path = f"{type(codec).__module__}:{type(codec).__qualname__}"
    for name, registered in ARCHITECTURES.items():
        if registered == path:
            return name
    raise UserError(f"{path} is not registered; add it to zoo.registry.ARCHITECTURES")


def _load_bundled(manifest: Manifest, device: str | torch.device) -> Codec | TokenModel | MultiTokenHeads:
    from zoo.checkpoint import WEIGHTS, load_directory

    folder, weights = checkpoints.folder(manifest.name), None
    if not (folder / WEIGHTS).exists():
        from zoo.hub import fetch

        weights = fetch(manifest.repository, manifest.file, manifest.revision)
    codec = load_directory(folder, manifest.sha256, device, weights, manifest.keymap)
    codec.name = manifest.name
    return codec


def _digest(directory: Path) -> str:
    return read_manifest(directory).sha256 if (directory / "manifest.json").exists() else ""
