"""What every image codec is: pictures in, `Tokens` out, and back."""

from __future__ import annotations

from abc import abstractmethod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.codecs.base import Codec, CodecInfo, CodecOutput, Search, Tokens
from zoo.codecs.quantizers.base import Quantizer, Spread


class ImageCodec(Codec):
    """Base of all image codecs.

    A picture is padded to whole cells of `info.hop` pixels by repeating its last row and column, and cropped back.
    Rows of different true size are encoded apart, so that codes depend on the picture alone. A codec of fixed size
    (`info.tile`) cuts the padded picture into tiles; the codes of a picture's tiles stand behind one another.

    Subclasses write `latents` and `synthesise` and have a `quantizer` between them.

    Attributes:
        quantizer: Latents to codes and back.
        hop, tile, tile_codes: See `CodecInfo`.
    """

    quantizer: Quantizer
    hop: int
    tile: int = 0
    tile_codes: int = 0

    @property
    def info(self) -> CodecInfo:
        """See `Codec.info`."""
        return CodecInfo(
            media="image",
            sample_rate=0,
            channels=3,
            hop=self.hop,
            codebook_sizes=self.quantizer.codebook_sizes,
            causal=False,
            lookahead=None,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            tile=self.tile,
            tile_codes=self.tile_codes,
        )

    @abstractmethod
    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim *grid"]:
        """What is quantized, for pictures in [0, 1] of whole cells."""

    @abstractmethod
    def synthesise(self, z: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch 3 height width"]:
        """Pictures of whole cells; values may lie outside [0, 1]."""

    def forward(
        self,
        media: Float[Tensor, "batch 3 height width"],
        codebooks: Int[Tensor, "batch"] | int | Spread | None = None,
        quantize: bool = True,
    ) -> CodecOutput:
        """See `Codec.forward`; pictures must be of whole cells. Nothing is clamped, so that gradients pass."""
        z = self.latents(media)
        if not quantize:
            return CodecOutput(self.synthesise(z), z.new_zeros(()), None)
        quantized = self.quantizer(z, codebooks)
        return CodecOutput(self.synthesise(quantized.z_q), quantized.loss, quantized.usage)

    def grid(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the codes of one codebook for a picture of that size."""
        info = self.info
        if info.tile:
            return (-(-height // info.tile) * -(-width // info.tile) * info.tile_codes,)
        return (-(-height // info.hop), -(-width // info.hop))

    @torch.no_grad()
    def encode(
        self,
        media: Float[Tensor, "batch 3 height width"],
        codebooks: int | None = None,
        lengths: Int[Tensor, "batch 2"] | None = None,
        *,
        beam: int = 1,
        search: Search | None = None,
    ) -> Tokens:
        """Tokenize pictures in [0, 1].

        Args:
            media: `[batch, 3, height, width]`; what lies behind a row's size is ignored.
            codebooks: Use the first so many codebooks (default: all).
            lengths: True height and width of each row in pixels (default: all).
            beam, search: See `Codec.encode`.

        Raises:
            ValueError: Wrong shape, empty pictures, values that are not finite, a codebook count or beam out of range,
                or a beam above 1 for a codec without a residual quantizer.
        """
        if media.ndim != 4 or media.shape[1] != self.info.channels:
            raise ValueError(
                f"expected pictures of shape [batch, {self.info.channels}, height, width], got {list(media.shape)}"
            )
        self.check_codebooks(codebooks)
        batch, whole = media.shape[0], torch.tensor(media.shape[2:])
        lengths = whole.expand(batch, 2).clone() if lengths is None else lengths.to("cpu", torch.int64)
        if lengths.shape != (batch, 2) or (lengths < 1).any() or (lengths > whole).any():
            raise ValueError(
                f"lengths must be {batch} pairs up to {tuple(whole.tolist())} pixels, got {lengths.tolist()}"
            )
        shape = self.grid(*lengths.amax(0).tolist()) if batch else self.grid(*whole.tolist())
        codes = torch.full((batch, codebooks or self.info.codebooks, *shape), -1, device=media.device)
        search = search or self.beam_search(codebooks, beam)
        for size in lengths.unique(dim=0).tolist():
            rows = (lengths == torch.tensor(size)).all(1).nonzero().flatten().to(media.device)
            picture = media[rows, :, : size[0], : size[1]]
            if not torch.isfinite(picture).all():
                raise ValueError("a picture holds NaN or infinite values; clean it before tokenizing")
            found = self.encode_rows(picture, codebooks, search)
            codes[(rows, slice(None), *(slice(n) for n in found.shape[2:]))] = found
        return Tokens(codes, lengths, None, self.name, self.weights)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Float[Tensor, "batch 3 height width"]:
        """Reconstruct pictures in [0, 1]; rows smaller than the largest are zero behind their size.

        Raises:
            ValueError: Codes outside their codebooks, fewer cells than the sizes need, or tokens of other weights.
        """
        codes, info = tokens.codes, self.info
        axes = 3 if info.tile else 4
        if codes.ndim != axes or codes.shape[1] > info.codebooks:
            raise ValueError(
                f"expected codes of {axes} axes with 1..{info.codebooks} codebooks along the second,"
                f" got {list(codes.shape)}"
            )
        self.check_tokens(tokens)
        largest = tokens.lengths.amax(0).tolist()
        media = codes.new_zeros(codes.shape[0], info.channels, *largest, dtype=torch.float32)
        for size in tokens.lengths.unique(dim=0).tolist():
            grid = self.grid(*size)
            if any(has < needs for has, needs in zip(codes.shape[2:], grid, strict=True)):
                raise ValueError(f"a picture of {size} pixels has codes of shape {grid}, got {list(codes.shape[2:])}")
            rows = (tokens.lengths == torch.tensor(size)).all(1).nonzero().flatten().to(codes.device)
            picture = self.decode_rows(codes[(rows, slice(None), *(slice(n) for n in grid))], size)
            media[rows, :, : size[0], : size[1]] = picture.clamp(0, 1).to(media.dtype)
        return media

    def encode_rows(
        self, media: Float[Tensor, "batch 3 height width"], codebooks: int | None, search: Search | None = None
    ) -> Int[Tensor, "batch codebook *grid"]:
        """Codes of pictures that are all signal, padded here to whole cells or tiles; a `search` sees whole tiles."""
        info = self.info
        unit = info.tile or info.hop
        height, width = media.shape[2:]
        padded = pad(media, (0, -width % unit, 0, -height % unit), mode="replicate")
        if not info.tile:
            return self.codes_of(self.latents(padded), media, codebooks, search)
        tiles = rearrange(padded, "b c (y h) (x w) -> (b y x) c h w", h=unit, w=unit)
        codes = self.codes_of(self.latents(tiles), tiles, codebooks, search)
        return rearrange(codes, "(b t) q n -> b q (t n)", b=len(media))

    def decode_rows(
        self, codes: Int[Tensor, "batch codebook *grid"], size: tuple[int, int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pictures of that height and width; values may lie outside [0, 1]."""
        info = self.info
        if not info.tile:
            return self.synthesise(self.quantizer.decode(codes))[:, :, : size[0], : size[1]]
        tiles = rearrange(codes, "b q (t n) -> (b t) q n", n=info.tile_codes)
        media = self.synthesise(self.quantizer.decode(tiles))
        down = -(-size[0] // info.tile)
        return rearrange(media, "(b y x) c h w -> b c (y h) (x w)", b=len(codes), y=down)[:, :, : size[0], : size[1]]
