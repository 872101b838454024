"""What every codec is: media in, `Tokens` out, and back; with facts about itself in a `CodecInfo`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.quantizers.base import Paths, Spread, Usage
from zoo.codecs.streaming import Window, advance

Search = Callable[[Tensor, Tensor], Tensor]
"""Finds codes `[batch, codebook, *grid]` of latents `[batch, dim, *grid]` and of the media that these are of.

The media are all signal, without padding, before any gain; in a pass over chunks, those of a window.
"""


@dataclass(frozen=True)
class CodecInfo:
    """Facts about a codec. Rates are computed from the codebooks, never labels.

    Attributes:
        media: What it codes.
        sample_rate: Hz; 0 for images.
        channels: Channels that the codec takes (1: other channel counts are downmixed or coded one by one).
        hop: Media samples (audio) or pixels a side (image) that one frame or cell of codes stands for.
        codebook_sizes: Number of codes of each codebook, coarse to fine.
        causal: No output depends on later input.
        lookahead: Samples behind the end of a frame that its reconstruction depends on; None if unbounded.
        parameters: Number of trainable scalars.
        tile: Pixels a side of the only picture that a tokenizer of fixed size takes, and
        tile_codes: how many codes of each codebook stand for it; both 0 for codecs of pictures of any size.
    """

    media: Literal["audio", "image"]
    sample_rate: int
    channels: int
    hop: int
    codebook_sizes: tuple[int, ...]
    causal: bool
    lookahead: int | None
    parameters: int
    tile: int = 0
    tile_codes: int = 0

    @property
    def codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames of codes a second, in Hz."""
        return self.sample_rate / self.hop

    def bits(self, codebooks: int | None = None) -> int:
        """Bits of one frame (or cell) when each code takes the whole number of bits that its codebook needs."""
        return sum(math.ceil(math.log2(size)) for size in self.codebook_sizes[:codebooks])

    def kbps(self, codebooks: int | None = None) -> float:
        """Kilobits a second of audio at `codebooks` codebooks (default: all)."""
        return self.frame_rate * self.bits(codebooks) / 1000

    def bpp(self, codebooks: int | None = None) -> float:
        """Bits per pixel at `codebooks` codebooks (default: all), of pictures that need no padding."""
        return self.bits(codebooks) * (self.tile_codes / self.tile**2 if self.tile else 1 / self.hop**2)

    def asdict(self) -> dict[str, Any]:
        rate = {"frame_rate": self.frame_rate, "kbps": self.kbps()} if self.media == "audio" else {"bpp": self.bpp()}
        return asdict(self) | {"codebooks": self.codebooks} | rate


@dataclass(frozen=True)
class Tokens:
    """Codes of a batch of media and all that is needed to turn them back.

    Attributes:
        codes: int64 `[batch, codebook, time]` (audio), `[batch, codebook, height, width]` (image) or
            `[batch, codebook, n]` (image tokenizers of fixed size: `n` codes of each tile, tiles row by row); -1 is no
            code.
        lengths: int64 `[batch]`, true media length in samples (images: `[batch, 2]`, height and width in pixels).
        scales: float32 `[batch]`, gain that `decode` multiplies onto the output; None if the codec has no gain.
        codec: Name of the codec that made them (`architecture.tag`), "" if it has none.
        weights: Hex digest of the weights that made them, "" if unknown.
        depth: int64, how many codebooks each cell or frame uses, 0 outside the media; codes behind it are -1. None if
            all are in use everywhere.
    """

    codes: Int[Tensor, "batch codebook *grid"]
    lengths: Int[Tensor, "batch *axes"]
    scales: Float[Tensor, "batch"] | None = None
    codec: str = ""
    weights: str = ""
    depth: Int[Tensor, "batch *grid"] | None = None

    def first(self, codebooks: int) -> Tokens:
        """The same tokens with the first `codebooks` codebooks only: a lower rate of the same media.

        Codes that a beam found are a little better all together and worse in part: to use fewer, encode with fewer.
        """
        depth = None if self.depth is None else self.depth.clamp(max=codebooks)
        return replace(self, codes=self.codes[:, :codebooks], depth=depth)


@dataclass
class CodecOutput:
    """What `Codec.forward` gives a training recipe.

    Attributes:
        media: Reconstruction, shape of the input.
        loss: Scalar quantizer loss (commitment, plus the codebook's own where it is trained by gradients).
        usage: Health of each codebook in this batch; None if nothing was quantized.
    """

    media: Tensor
    loss: Tensor
    usage: Usage | None


@dataclass(frozen=True)
class Context:
    """How far the two halves of an audio codec look, for exact work in chunks.

    All distances are in whole frames before and behind a frame's own.
    """

    encoder_past: int
    encoder_future: int
    decoder_past: int
    decoder_future: int


EVERYTHING = Context(*[1 << 40] * 4)  # reach of layers that see the whole recording at once


class ScaleMeter(Protocol):
    """Measures the gain of each row of a recording, however it is cut into pieces."""

    def update(self, samples: Float[Tensor, "row channel time"]) -> None: ...

    def scale(self) -> Float[Tensor, "row"]: ...


class Codec(nn.Module, ABC):
    """What audio and image codecs share.

    Attributes:
        config: The frozen dataclass that the codec was built from.
        name, weights: Name and weights' digest, filled in by `zoo.load`; they travel in `Tokens`.
        code_model: The trained model of its codes, a `codecs.context.ContextModel`, that lies beside the weights; None
            if there is none.
    """

    config_class: ClassVar[type]
    config: Any
    name: str = ""
    weights: str = ""
    code_model: Any = None

    @property
    @abstractmethod
    def info(self) -> CodecInfo: ...

    @property
    def device(self) -> torch.device:
        """Where the codec computes."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @abstractmethod
    def forward(
        self, media: Tensor, codebooks: Int[Tensor, "batch"] | int | Spread | None = None, quantize: bool = True
    ) -> CodecOutput:
        """Reconstruct for training: `quantize=False` skips the quantizer.

        `codebooks` may differ by row, or by cell: a function of the cells' errors, for residual quantizers.
        """

    @abstractmethod
    def encode(
        self,
        media: Tensor,
        codebooks: int | None = None,
        lengths: Tensor | None = None,
        *,
        beam: int = 1,
        search: Search | None = None,
    ) -> Tokens:
        """Tokenize media; codes depend on the media alone.

        Args:
            media: What to tokenize; what lies behind a row's length is ignored.
            codebooks: Use the first so many codebooks (default: all).
            lengths: True length or size of each row (default: all that there is).
            beam: How many sums of codewords the search for codes keeps: 1 takes one level after the other, 16 takes
                some tens of times as long and comes nearer to the latents. Only with 1 are the codes of `n` codebooks
                the first `n` of more. Other beams are for residual quantizers.
            search: In place of `beam`, another way to find codes of at most `codebooks` codebooks: see `codecs.depth`.
        """

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Reconstruct media of the shape that went in."""

    def paths(self, z: Float[Tensor, "batch dim *grid"], codebooks: int | None = None, beam: int = 1) -> Paths:
        """Codes of latents for each number of codebooks; see `Quantizer.paths`.

        Raises:
            ValueError: `beam` is below 1, or the codec has no residual quantizer.
        """
        quantizer = getattr(self, "quantizer", None)
        if quantizer is None:
            raise ValueError(f"{type(self).__name__} has no residual quantizer: use beam=1 and a number of codebooks")
        return quantizer.paths(z, codebooks, beam)

    def codes_of(self, z: Tensor, media: Tensor, codebooks: int | None, search: Search | None) -> Tensor:
        """Codes of the latents of media by `search`, or by the quantizer's own `encode` if there is none."""
        return self.quantizer.encode(z, codebooks) if search is None else search(z, media)

    def beam_search(self, codebooks: int | None, beam: int) -> Search | None:
        """The search of that width; None, for the quantizer's own `encode`, if it is 1."""
        return None if beam == 1 else lambda z, _: self.paths(z, codebooks, beam).codes[-1]

    def check_codebooks(self, codebooks: int | None) -> None:
        """Raise ValueError for a number of codebooks that this codec can't use."""
        if codebooks is not None and not 1 <= codebooks <= self.info.codebooks:
            raise ValueError(f"codebooks must lie in 1..{self.info.codebooks}, got {codebooks}")

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ValueError for codes that this codec's codebooks don't have, and for tokens of other weights."""
        codes, info = tokens.codes, self.info
        sizes = torch.tensor(info.codebook_sizes[: codes.shape[1]], device=codes.device)
        sizes = sizes.view(1, -1, *[1] * (codes.ndim - 2))
        if (codes >= sizes).any() or (codes < -1).any():
            raise ValueError(f"codes must lie in -1..{int(sizes.max()) - 1}; tokens of another codec, or damaged")
        if tokens.depth is not None and not torch.equal((codes >= 0).sum(dim=1).cpu(), tokens.depth.cpu()):
            raise ValueError("depth must count the codes of each cell; codes behind it must be -1")
        if tokens.weights and self.weights and tokens.weights != self.weights:
            raise ValueError(f"tokens were made by weights {tokens.weights[:12]}, this codec has {self.weights[:12]}")


class AudioCodec(Codec):
    """Base of all audio codecs.

    Rows of different true length are encoded apart, so that padding never reaches the network: codes depend on the
    media alone. Subclasses write `encode_rows`, `decode_rows` and `forward`.

    Attributes:
        context: Reach of encoder and decoder; None if unbounded (recurrent layers). Then `encode_chunk` and
            `decode_chunk` gather the whole recording, unless a codec overrides them to carry its layers' own state.
    """

    context: Context | None = None

    @abstractmethod
    def encode_rows(
        self,
        media: Float[Tensor, "batch channel time"],
        codebooks: int | None,
        scales: Float[Tensor, "batch"] | None,
        search: Search | None = None,
    ) -> tuple[Int[Tensor, "batch codebook frame"], Float[Tensor, "batch"] | None]:
        """Codes and gains of media that is all signal.

        `scales`: gains to use in place of measured ones; `search`: see `codes_of`.
        """

    @abstractmethod
    def decode_rows(
        self, codes: Int[Tensor, "batch codebook frame"], scales: Float[Tensor, "batch"] | None
    ) -> Float[Tensor, "batch channel time"]:
        """Media of `frame * hop` samples."""

    def scale_meter(self) -> ScaleMeter | None:
        """Measures the gain that travels with the tokens, piece by piece; None if this codec has no gain."""
        return None

    def scale_of(self, media: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch"] | None:
        """Gain that `encode` would store for each row; None if this codec has no gain."""
        meter = self.scale_meter()
        if meter is None:
            return None
        meter.update(media)
        return meter.scale()

    @torch.no_grad()
    def encode(
        self,
        media: Float[Tensor, "batch channel time"],
        codebooks: int | None = None,
        lengths: Int[Tensor, "batch"] | None = None,
        scales: Float[Tensor, "batch"] | None = None,
        *,
        beam: int = 1,
        search: Search | None = None,
    ) -> Tokens:
        """Tokenize audio in [-1, 1] at `info.sample_rate`.

        Args:
            media: `[batch, channel, time]`; what lies behind a row's length is ignored.
            codebooks: Use the first so many codebooks (default: all).
            lengths: True length of each row in samples (default: all of `time`).
            scales: Gains to use in place of measured ones: what a chunk of a longer recording needs.
            beam, search: See `Codec.encode`.

        Raises:
            ValueError: Wrong shape, empty rows, values that are not finite, a codebook count or beam out of range, or a
                beam above 1 for a codec without a residual quantizer.
        """
        info = self.info
        if media.ndim != 3 or media.shape[1] != info.channels:
            raise ValueError(f"expected audio of shape [batch, {info.channels}, time], got {list(media.shape)}")
        self.check_codebooks(codebooks)
        batch, _, time = media.shape
        lengths = torch.full((batch,), time) if lengths is None else lengths.to("cpu", torch.int64)
        if lengths.shape != (batch,) or (lengths < 1).any() or (lengths > time).any():
            raise ValueError(f"lengths must be {batch} numbers in 1..{time}, got {lengths.tolist()}")
        frames = -(-int(lengths.max()) // info.hop)
        codes = torch.full((batch, codebooks or info.codebooks, frames), -1, device=media.device)
        gains = torch.ones(batch, device=media.device)
        search = search or self.beam_search(codebooks, beam)
        has_gain = False
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten().to(media.device)
            signal = media[rows, :, :length]
            if not torch.isfinite(signal).all():
                raise ValueError("audio holds NaN or infinite samples; clean it before tokenizing")
            found, gain = self.encode_rows(signal, codebooks, None if scales is None else scales[rows], search)
            codes[rows, :, : found.shape[-1]] = found
            if gain is not None:
                has_gain, gains[rows] = True, gain.float()
        return Tokens(codes, lengths, gains if has_gain else None, self.name, self.weights)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Float[Tensor, "batch channel time"]:
        """Reconstruct audio; rows shorter than the longest end in zeros.

        Raises:
            ValueError: Codes outside their codebooks, fewer frames than the lengths need, or tokens of other weights.
        """
        info, codes = self.info, tokens.codes
        if codes.ndim != 3 or codes.shape[1] > info.codebooks:
            raise ValueError(f"expected codes of shape [batch, 1..{info.codebooks}, time], got {list(codes.shape)}")
        self.check_tokens(tokens)
        longest = int(tokens.lengths.max())
        if longest > codes.shape[2] * info.hop:
            raise ValueError(
                f"{codes.shape[2]} frames hold {codes.shape[2] * info.hop} samples at most, lengths say {longest}"
            )
        media = codes.new_zeros(codes.shape[0], info.channels, longest, dtype=torch.float32)
        for length in tokens.lengths.unique().tolist():
            rows = (tokens.lengths == length).nonzero().flatten().to(codes.device)
            scales = None if tokens.scales is None else tokens.scales[rows]
            signal = self.decode_rows(codes[rows, :, : -(-length // info.hop)], scales)
            media[rows, :, :length] = signal[..., :length].to(media.dtype)
        return media

    def init_encoder(self, scales: Float[Tensor, "batch"] | None = None) -> Any:
        """State with which `encode_chunk` starts; `scales` are the rows' gains, for codecs that have them."""
        return Window(scales)

    @torch.no_grad()
    def encode_chunk(
        self,
        media: Float[Tensor, "batch channel time"],
        state: Any,
        codebooks: int | None = None,
        final: bool = False,
        *,
        beam: int = 1,
        search: Search | None = None,
    ) -> tuple[Int[Tensor, "batch codebook frame"], Any]:
        """Codes that are settled once `media` has come, and the next state; chunks may have any size, also none.

        Together the chunks' codes equal `encode` of the whole. `final`: nothing follows, the last frame is padded.
        `beam`, `search`: see `Codec.encode`; a search may look at nothing but each latent by itself.
        """
        search = search or self.beam_search(codebooks, beam)
        reach = self.context or EVERYTHING
        codes, state = advance(
            state, media, self.info.hop, reach.encoder_past, reach.encoder_future, final,
            lambda signal: self.encode_rows(signal, codebooks, state.scales, search)[0],
        )  # fmt: skip
        if codes is None:
            codes = media.new_empty(media.shape[0], codebooks or self.info.codebooks, 0, dtype=torch.int64)
        return codes, state

    def init_decoder(self, scales: Float[Tensor, "batch"] | None = None) -> Any:
        """State with which `decode_chunk` starts."""
        return Window(scales)

    @torch.no_grad()
    def decode_chunk(
        self, codes: Int[Tensor, "batch codebook frame"], state: Any, final: bool = False
    ) -> tuple[Float[Tensor, "batch channel time"], Any]:
        """Samples that are settled once `codes` have come, and the next state; `final` gives out all that is left."""
        reach = self.context or EVERYTHING
        media, state = advance(
            state, codes, 1, reach.decoder_past, reach.decoder_future, final,
            lambda window: self.decode_rows(window, state.scales),
        )  # fmt: skip
        if media is None:
            media = codes.new_empty(codes.shape[0], self.info.channels, 0, dtype=torch.float32)
        return media, state
