"""A codec that works on short-time spectra: STFT in, residual codes between, magnitudes and phases out.

Beside the network stands a linear path, as in transform coding: it carries the waveform of the strongest components,
phase included, which a network that speaks in magnitudes and phases learns late; the network codes all the rest.
Coding in the frequency domain follows FreqCodec (Du et al., "FunCodec", 2023), synthesis by an inverse STFT follows
Vocos (Siuzdak, 2023). Both halves run at the frame rate only, which makes training on a CPU feasible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from zoo.codecs.base import AudioCodec, CodecInfo, CodecOutput, Context
from zoo.codecs.layers.frames import FrameTransform
from zoo.codecs.layers.framewise import ContextBlock
from zoo.codecs.layers.loudness import LoudnessMeter
from zoo.codecs.quantizers import residual_vq
from zoo.codecs.quantizers.base import Spread


@dataclass(frozen=True)
class SpectralConfig:
    """Shape of a `SpectralCodec`; the defaults are `spectral.speech-16khz`.

    Attributes:
        sample_rate: Hz.
        window, stride: Of the STFT, in samples; codes come at half the rate of its frames.
        fine, fine_hidden: Width of the encoder's blocks at the STFT's rate, and between their two products.
        coarse, coarse_hidden: The same of both halves' blocks at the codes' rate.
        decoder_width, decoder_hidden: The same of the decoder's blocks at the STFT's rate.
        encoder_fine, encoder_coarse, decoder_coarse, decoder_fine: Dilation of each block, in order of the signal.
        latent: Dimensions that are quantized.
        codebooks, codebook_size: Of the residual quantizer.
        kmeans_vectors: Latents that are gathered before the codebooks start by k-means.
        level: Root mean square to which recordings are scaled; the gain travels with the tokens.
    """

    sample_rate: int = 16000
    window: int = 640
    stride: int = 160
    fine: int = 256
    fine_hidden: int = 640
    coarse: int = 384
    coarse_hidden: int = 672
    decoder_width: int = 320
    decoder_hidden: int = 768
    encoder_fine: tuple[int, ...] = (1, 2)
    encoder_coarse: tuple[int, ...] = (1, 3)
    decoder_coarse: tuple[int, ...] = (1, 3)
    decoder_fine: tuple[int, ...] = (1, 3, 2, 1)
    latent: int = 96
    codebooks: int = 16
    codebook_size: int = 1024
    kmeans_vectors: int = 24000
    level: float = 0.126

    @property
    def hop(self) -> int:
        """Samples of a frame of codes."""
        return 2 * self.stride


class SpectralEncoder(nn.Module):
    """Spectra `[batch, frame, frequency]` to latents `[batch, frame / 2, latent]`."""

    def __init__(self, config: SpectralConfig):
        super().__init__()
        self.enter = nn.Linear(3 * (config.window // 2 + 1), config.fine)
        self.fine = nn.Sequential(*(ContextBlock(config.fine, config.fine_hidden, d) for d in config.encoder_fine))
        self.merge = nn.Linear(2 * config.fine, config.coarse)
        self.coarse = nn.Sequential(
            *(ContextBlock(config.coarse, config.coarse_hidden, d) for d in config.encoder_coarse)
        )
        self.leave = nn.Sequential(nn.LayerNorm(config.coarse), nn.Linear(config.coarse, config.latent))
        self.direct = nn.Linear(4 * (config.window // 2 + 1), config.latent, bias=False)

    def forward(self, spectrum: Complex[Tensor, "batch frame frequency"]) -> Float[Tensor, "batch merged latent"]:
        dtype = self.enter.weight.dtype  # spectra have full precision, whatever the weights have
        x = self.fine(self.enter(features(spectrum).to(dtype)))
        x = self.leave(self.coarse(self.merge(pairs(x))))
        return x + self.direct(pairs(torch.view_as_real(spectrum).flatten(2).to(dtype)))


class SpectralDecoder(nn.Module):
    """Latents `[batch, frame, latent]` to spectra `[batch, 2 * frame, frequency]`."""

    def __init__(self, config: SpectralConfig):
        super().__init__()
        width, self.bins = config.decoder_width, config.window // 2 + 1
        self.enter = nn.Linear(config.latent, config.coarse)
        self.coarse = nn.Sequential(
            *(ContextBlock(config.coarse, config.coarse_hidden, d) for d in config.decoder_coarse)
        )
        self.spread = nn.Linear(config.coarse, 2 * width)
        self.fine = nn.Sequential(*(ContextBlock(width, config.decoder_hidden, d) for d in config.decoder_fine))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * self.bins))
        self.direct = nn.Linear(config.latent, 4 * self.bins, bias=False)

    def forward(self, z: Float[Tensor, "batch merged latent"]) -> Complex[Tensor, "batch frame frequency"]:
        z = z.to(self.enter.weight.dtype)
        x = self.spread(self.coarse(self.enter(z)))
        x = self.leave(self.fine(singles(x)))
        direct = singles(self.direct(z)).float().unflatten(2, (-1, 2))
        return spectrum_of(*x.float().split(self.bins, dim=2)) + torch.view_as_complex(direct.contiguous())


class SpectralCodec(AudioCodec):
    """Non-causal speech codec of finite reach: STFT, encoder, residual quantizer, decoder, inverse STFT."""

    config_class = SpectralConfig

    def __init__(self, config: SpectralConfig):
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.window, config.stride)
        self.encoder = SpectralEncoder(config)
        self.quantizer = residual_vq(
            config.latent, config.codebook_size, config.codebooks, kmeans_vectors=config.kmeans_vectors
        )
        self.decoder = SpectralDecoder(config)
        with torch.no_grad():  # both ends of the linear path begin as one projection, small beside the network
            self.decoder.direct.weight.copy_(self.encoder.direct.weight.mul_(0.3).T)
        # Both halves see as far behind as ahead; two frames of the STFT make one of codes.
        encoder = sum(config.encoder_coarse) + -(-(sum(config.encoder_fine) + self.transform.reach) // 2)
        decoder = sum(config.decoder_coarse) + -(-(sum(config.decoder_fine) + self.transform.reach) // 2)
        self.context = Context(encoder, encoder, decoder, decoder)

    @property
    def info(self) -> CodecInfo:
        return CodecInfo(
            media="audio",
            sample_rate=self.config.sample_rate,
            channels=1,
            hop=self.config.hop,
            codebook_sizes=self.quantizer.codebook_sizes,
            causal=False,
            lookahead=(self.context.encoder_future + self.context.decoder_future) * self.config.hop,
            parameters=sum(p.numel() for p in self.parameters()),
        )

    def latents(self, media: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch latent frame"]:
        """What is quantized, for audio at the nominal level."""
        missing = -media.shape[2] % self.config.hop
        audio = nn.functional.pad(media[:, 0], (0, missing))
        return self.encoder(self.transform.analyse(audio)).transpose(1, 2)

    def synthesise(self, z: Float[Tensor, "batch latent frame"]) -> Float[Tensor, "batch channel time"]:
        """Audio at the nominal level, whole frames."""
        return self.transform.synthesise(self.decoder(z.transpose(1, 2)))[:, None]

    def forward(
        self,
        media: Float[Tensor, "batch channel time"],
        codebooks: Int[Tensor, "batch"] | int | Spread | None = None,
        quantize: bool = True,
    ) -> CodecOutput:
        """See `AudioCodec.forward`; the audio is taken to be near the nominal level, no gain is measured."""
        z = self.latents(media)
        if not quantize:
            return CodecOutput(self.synthesise(z)[..., : media.shape[2]], z.new_zeros(()), None)
        quantized = self.quantizer(z, codebooks)
        return CodecOutput(self.synthesise(quantized.z_q)[..., : media.shape[2]], quantized.loss, quantized.usage)

    def encode_rows(self, media, codebooks, scales, search=None):
        """See `AudioCodec.encode_rows`."""
        scales = self.scale_of(media) if scales is None else scales
        z = self.latents(media / scales[:, None, None])
        return self.codes_of(z, media, codebooks, search), scales

    def decode_rows(self, codes, scales):
        """See `AudioCodec.decode_rows`."""
        media = self.synthesise(self.quantizer.decode(codes))
        return media if scales is None else media * scales[:, None, None]

    def scale_meter(self) -> LoudnessMeter:
        """See `AudioCodec.scale_meter`."""
        return LoudnessMeter(self.config.sample_rate, self.config.level)


def pairs(x: Float[Tensor, "batch frame feature"]) -> Float[Tensor, "batch merged both"]:
    """Two neighbouring frames as one."""
    return x.unflatten(1, (-1, 2)).flatten(2)


def singles(x: Float[Tensor, "batch merged both"]) -> Float[Tensor, "batch frame feature"]:
    """The inverse of `pairs`."""
    return x.unflatten(2, (2, -1)).flatten(1, 2)


def features(spectrum: Complex[Tensor, "batch frame frequency"]) -> Float[Tensor, "batch frame feature"]:
    """Real and imaginary parts at compressed magnitude, and the log magnitude."""
    spectrum = torch.view_as_real(spectrum)
    magnitude = spectrum.square().sum(3).add(1e-6).sqrt()
    compressed = spectrum * magnitude.pow(-0.7)[..., None]
    return torch.cat([compressed[..., 0], compressed[..., 1], 0.3 * magnitude.log() + 0.5], dim=2)


def spectrum_of(
    log_magnitude: Float[Tensor, "batch frame frequency"],
    along: Float[Tensor, "batch frame frequency"],
    across: Float[Tensor, "batch frame frequency"],
) -> Complex[Tensor, "batch frame frequency"]:
    """Magnitude times a direction of about unit length: phases are learnt far better than from an angle."""
    size = log_magnitude.clamp(max=5).exp() * (along.square() + across.square() + 0.1).rsqrt()
    return torch.complex(along * size, across * size)
