"""SEANet codec, the family of EnCodec: strided convolutions and an LSTM around a residual vector quantizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.base import AudioCodec, CodecInfo, CodecOutput, Context, Search
from zoo.codecs.layers.conv import Conv, Normed, Upsample
from zoo.codecs.layers.loudness import LevelMeter
from zoo.codecs.layers.lstm import ResidualLSTM
from zoo.codecs.layers.residual import ELU, ResidualBlock, run, run_in_blocks
from zoo.codecs.quantizers import residual_vq
from zoo.codecs.quantizers.base import Spread
from zoo.codecs.streaming import Window

BLOCK = 1 << 17  # values of the widest activation in a block: with what is made of it, it fits into 2 MB of cache


@dataclass(frozen=True)
class SEANetConfig:
    """The defaults are EnCodec's 24 kHz model.

    Attributes:
        ratios: Upsampling ratios of the decoder, in its order; the encoder has them reversed. The hop is their product.
        filters: Channels at the sample rate; they double at every ratio.
        dim: Channels of the latents.
        kernel, last_kernel: First and last convolution of encoder and decoder.
        residual_layers: Residual blocks at every ratio; the dilation of the j-th is `dilation_base ** j`.
        compress: A residual block's inner channels are so many times fewer.
        shortcut: Convolution on the residual path, in place of the identity.
        lstm_layers: 0 leaves the LSTM out.
        causal: Pad on the left alone.
        norm: "weight", "group" (one group over channels and all time, so not causal) or "none".
        pad: Mirror the signal at its ends ("reflect") or continue it by zeros ("constant"). Even a causal codec that
            mirrors sees the frames behind the first ones, there and nowhere else; `info.lookahead` counts them.
        trim_right: Share of a causal upsampling's surplus that is cut at the right; under 1 it looks ahead.
        normalize: Divide the audio by its loudness (RMS over channels and time) and store that as scale.
        codebooks, codebook_size, quantizer_dropout, kmeans_vectors: See `zoo.codecs.quantizers.residual_vq`.
    """

    sample_rate: int = 24000
    channels: int = 1
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    filters: int = 32
    dim: int = 128
    kernel: int = 7
    last_kernel: int = 7
    residual_kernel: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    shortcut: bool = True
    lstm_layers: int = 2
    causal: bool = True
    norm: Literal["weight", "group", "none"] = "weight"
    pad: Literal["reflect", "constant"] = "reflect"
    trim_right: float = 1.0
    normalize: bool = False
    codebooks: int = 32
    codebook_size: int = 1024
    quantizer_dropout: float = 0.0
    kmeans_vectors: int = 0

    def __post_init__(self) -> None:
        if self.causal and self.norm == "group":
            raise ValueError("norm 'group' sees all time, so it needs causal=False; or choose norm 'weight'")
        if not self.causal and self.trim_right != 1:
            raise ValueError(f"trim_right is for causal codecs and must be 1 with causal=False, got {self.trim_right}")

    @classmethod
    def encodec_24khz(cls) -> SEANetConfig:
        """EnCodec's causal mono model: 75 Hz, 1.5 to 24 kbps."""
        return cls()

    @classmethod
    def encodec_48khz(cls) -> SEANetConfig:
        """EnCodec's stereo model: 150 Hz, up to 24 kbps; EnCodec feeds it windows of one second that overlap by 1 %."""
        return cls(sample_rate=48000, channels=2, causal=False, norm="group", normalize=True, codebooks=16)

    @property
    def hop(self) -> int:
        return math.prod(self.ratios)


class SEANetCodec(AudioCodec):
    """EnCodec's architecture. Training splits weights into gain and direction (weight norm) until `fuse()`."""

    config_class: ClassVar[type] = SEANetConfig
    config: SEANetConfig

    def __init__(self, config: SEANetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SEANetConfig()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_encoder_layers(config))
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(_decoder_layers(config))
        self.quantizer = residual_vq(
            config.dim, config.codebook_size, config.codebooks, config.quantizer_dropout, config.kmeans_vectors
        )
        bounded = config.lstm_layers == 0 and config.norm != "group"
        self.context = _context(self) if bounded else None

    @property
    def info(self) -> CodecInfo:
        config = self.config
        return CodecInfo(
            media="audio",
            sample_rate=config.sample_rate,
            channels=config.channels,
            hop=config.hop,
            codebook_sizes=self.quantizer.codebook_sizes,
            causal=config.causal and config.trim_right == 1,
            lookahead=_lookahead(self),
            parameters=sum(parameter.numel() for parameter in self.parameters()),
        )

    def forward(
        self,
        media: Float[Tensor, "batch channel time"],
        codebooks: Int[Tensor, "batch"] | int | Spread | None = None,
        quantize: bool = True,
    ) -> CodecOutput:
        """See `AudioCodec.forward`."""
        scales = self.scale_of(media)
        z, _ = run(self.encoder.layers, _scaled(media, scales, -1).transpose(1, 2), None, True)
        loss, usage = z.new_zeros((), dtype=torch.float32), None
        if quantize:
            quantized = self.quantizer(z.transpose(1, 2), codebooks)
            z, loss, usage = quantized.z_q.transpose(1, 2), quantized.loss, quantized.usage
        y = self._decode(z)[..., : media.shape[-1]]
        return CodecOutput(_scaled(y, scales, 1), loss, usage)

    def encode_rows(
        self,
        media: Float[Tensor, "batch channel time"],
        codebooks: int | None = None,
        scales: Float[Tensor, "batch"] | None = None,
        search: Search | None = None,
    ) -> tuple[Int[Tensor, "batch codebook frame"], Float[Tensor, "batch"] | None]:
        """See `AudioCodec.encode_rows`."""
        scales = self.scale_of(media) if scales is None else scales
        z = self._encode(_scaled(media, scales, -1)).transpose(1, 2)
        return self.codes_of(z, media, codebooks, search), scales

    def decode_rows(
        self, codes: Int[Tensor, "batch codebook frame"], scales: Float[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch channel time"]:
        """See `AudioCodec.decode_rows`."""
        return _scaled(self._decode(self._latents(codes)), scales, 1)

    def scale_meter(self) -> LevelMeter | None:
        """Root mean square of the channels' mean, if the codec normalizes."""
        return LevelMeter() if self.config.normalize else None

    def fuse(self) -> SEANetCodec:
        """Multiply weight norm into plain weights, for use: same outputs, less work."""
        for module in self.modules():
            if isinstance(module, Normed):
                module.fuse()
        return self

    def init_encoder(self, scales: Float[Tensor, "batch"] | None = None) -> Stream | Window:
        """See `AudioCodec.init_encoder`."""
        if self.config.normalize and scales is None:
            raise ValueError("this codec normalizes: a stream needs the recording's scales from the start")
        return Stream(scales) if self.config.causal else Window(scales)

    def init_decoder(self, scales: Float[Tensor, "batch"] | None = None) -> Stream | Window:
        """See `AudioCodec.init_decoder`."""
        return Stream(scales) if self.config.causal else Window(scales)

    @torch.no_grad()
    def encode_chunk(
        self,
        media: Float[Tensor, "batch channel time"],
        state: Stream | Window,
        codebooks: int | None = None,
        final: bool = False,
        *,
        beam: int = 1,
        search: Search | None = None,
    ) -> tuple[Int[Tensor, "batch codebook frame"], Stream | Window]:
        """Causal codecs carry what their layers need; others look at windows, or at the whole if they must."""
        if isinstance(state, Window):
            return super().encode_chunk(media, state, codebooks, final, beam=beam, search=search)
        search = search or self.beam_search(codebooks, beam)
        x = _scaled(media, state.scales, -1).transpose(1, 2)
        z, carries = run(self.encoder.layers, x, state.carries, final)
        if z.shape[1]:
            codes = self.codes_of(z.transpose(1, 2), media, codebooks, search)
        else:
            codes = media.new_empty(len(media), codebooks or self.config.codebooks, 0, dtype=torch.int64)
        return codes, Stream(state.scales, carries)

    @torch.no_grad()
    def decode_chunk(
        self, codes: Int[Tensor, "batch codebook frame"], state: Stream | Window, final: bool = False
    ) -> tuple[Float[Tensor, "batch channel time"], Stream | Window]:
        """Samples that are settled once `codes` have come."""
        if isinstance(state, Window):
            return super().decode_chunk(codes, state, final)
        z = self._latents(codes)
        y, carries = run(self.decoder.layers, z, state.carries, final)
        return _scaled(y.transpose(1, 2), state.scales, 1), Stream(state.scales, carries)

    def _encode(self, media: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch frame dim"]:
        x, layers = media.transpose(1, 2), self.encoder.layers
        if self._runs_in_blocks(x):
            split = min((index for index, layer in enumerate(layers) if _is_big(layer)), default=len(layers))
            steps = max(1, BLOCK // (self.config.filters * len(x) * self.config.hop)) * self.config.hop
            x, layers = run_in_blocks(layers[:split], x, steps), layers[split:]
        return run(layers, x, None, True)[0]

    def _decode(self, z: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch channel time"]:
        layers = self.decoder.layers
        if self._runs_in_blocks(z):
            split = 1 + max((index for index, layer in enumerate(layers) if _is_big(layer)), default=-1)
            rate = math.prod(layer.stride for layer in layers[split:] if isinstance(layer, Upsample))
            z, _ = run(layers[:split], z, None, True)
            steps = max(1, BLOCK // (self.config.filters * len(z) * rate))
            return run_in_blocks(layers[split:], z, steps).transpose(1, 2)
        return run(layers, z, None, True)[0].transpose(1, 2)

    def _runs_in_blocks(self, x: Tensor) -> bool:
        return self.config.causal and x.device.type == "cpu" and not torch.is_grad_enabled()

    def _latents(self, codes: Int[Tensor, "batch codebook frame"]) -> Float[Tensor, "batch frame dim"]:
        like = self.decoder.layers[0].bias
        if codes.shape[-1] == 0:
            return like.new_zeros(codes.shape[0], 0, self.config.dim)
        return self.quantizer.decode(codes).transpose(1, 2).to(like.dtype)


def shaping(layers: nn.ModuleList, inner: bool = False) -> list[Conv | Upsample]:
    """The layers that look around or change the rate, in order; `inner`: all convolutions."""
    kinds = Conv | Upsample
    if inner:
        return [module for module in layers.modules() if isinstance(module, kinds)]
    found = [layer.wide if isinstance(layer, ResidualBlock) else layer for layer in layers]
    return [layer for layer in found if isinstance(layer, kinds)]


def _is_big(layer: nn.Module) -> bool:
    """Its weights alone fill the cache, so it takes the whole signal at once."""
    return sum(parameter.numel() for parameter in layer.parameters()) > BLOCK


class Stream(NamedTuple):
    """State of a causal codec's encoder or decoder between chunks: the gains, and what each layer carries."""

    scales: Tensor | None = None
    carries: list[Any] | None = None


def _encoder_layers(config: SEANetConfig) -> Iterator[nn.Module]:
    conv = {"causal": config.causal, "norm": config.norm, "pad": config.pad}
    width = config.filters
    yield Conv(config.channels, width, config.kernel, **conv)
    for ratio in reversed(config.ratios):
        yield from _residual_blocks(config, width)
        yield ELU()
        yield Conv(width, 2 * width, 2 * ratio, stride=ratio, **conv)
        width *= 2
    if config.lstm_layers:
        yield ResidualLSTM(width, config.lstm_layers)
    yield ELU()
    yield Conv(width, config.dim, config.last_kernel, **conv)


def _decoder_layers(config: SEANetConfig) -> Iterator[nn.Module]:
    conv = {"causal": config.causal, "norm": config.norm, "pad": config.pad}
    width = config.filters << len(config.ratios)
    yield Conv(config.dim, width, config.kernel, **conv)
    if config.lstm_layers:
        yield ResidualLSTM(width, config.lstm_layers)
    for ratio in config.ratios:
        yield ELU()
        yield Upsample(
            width, width // 2, 2 * ratio, ratio, causal=config.causal, trim_right=config.trim_right, norm=config.norm
        )
        width //= 2
        yield from _residual_blocks(config, width)
    yield ELU()
    yield Conv(width, config.channels, config.last_kernel, **conv)


def _residual_blocks(config: SEANetConfig, width: int) -> Iterator[ResidualBlock]:
    for index in range(config.residual_layers):
        yield ResidualBlock(
            width,
            width // config.compress,
            config.residual_kernel,
            config.dilation_base**index,
            causal=config.causal,
            norm=config.norm,
            pad=config.pad,
            shortcut=config.shortcut,
        )


def _scaled(x: Tensor, scales: Tensor | None, power: int) -> Tensor:
    """`x` times `scales ** power`; as it is if there are none."""
    return x if scales is None else x * scales[:, None, None].to(x.dtype) ** power


def _inputs_needed(layers: nn.ModuleList, steps: int) -> int:
    """How many inputs the first `steps` outputs depend on; mirrored padding at the start looks ahead."""
    for layer in reversed(shaping(layers)):
        if isinstance(layer, Upsample):
            steps = -(-(steps + layer.skip) // layer.stride)
        else:
            mirrored = layer.past + 1 if layer.pad == "reflect" else 0
            steps = max(steps * layer.stride + layer.future, mirrored)
    return steps


def _past(layers: nn.ModuleList, rate: Fraction) -> int:
    """Frames before its own that an output frame depends on; `rate`: inputs of the first layer in a frame."""
    frames = Fraction(0)
    for layer in shaping(layers):
        if isinstance(layer, Upsample):
            frames += layer.back / rate
            rate *= layer.stride
        else:  # at the end of the signal, mirrored padding looks back
            frames += max(layer.past, layer.future + layer.stride) / rate
            rate /= layer.stride
    return math.ceil(frames)


def _context(codec: SEANetCodec) -> Context:
    encoder, decoder, hop = codec.encoder.layers, codec.decoder.layers, codec.config.hop
    return Context(
        encoder_past=_past(encoder, Fraction(hop)),
        encoder_future=-(-_inputs_needed(encoder, 1) // hop) - 1,
        decoder_past=_past(decoder, Fraction(1)),
        decoder_future=_inputs_needed(decoder, hop) - 1,
    )


def _lookahead(codec: SEANetCodec) -> int | None:
    if codec.config.norm == "group":
        return None
    hop = codec.config.hop
    return _inputs_needed(codec.encoder.layers, _inputs_needed(codec.decoder.layers, hop)) - hop
