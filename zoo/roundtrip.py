"""One recording through a codec and a real token file, as the worker processes of `zoo evaluate` do it."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.codecs.base import AudioCodec, CodecInfo, Tokens
from zoo.container import TokenReader
from zoo.container_header import TokenHeader
from zoo.container_writer import TokenWriter
from zoo.recipes.metrics import Score, pesq_wb, shift
from zoo.scoring import Clip


@dataclass(frozen=True)
class Trip:
    """What became of a clip: audio, bytes, seconds of work, and how often each code of each codebook came."""

    audio: np.ndarray
    payload_bytes: int
    file_bytes: int
    encode_seconds: float
    decode_seconds: float
    histograms: list[np.ndarray]


_worker: dict[str, Any] = {}


def load_worker(codec: AudioCodec, device: str) -> None:
    """Give this process its codec, warmed up."""
    codec = deepcopy(codec).to(device).eval()  # in a single process the caller keeps its own as it is
    _worker.update(codec=codec, device=device)
    info = codec.info
    codec.decode(codec.encode(torch.randn(1, info.channels, info.sample_rate, device=device) / 10))


def round_trip(clip: Clip, codebooks: int) -> Trip:
    """Encode a clip, write a token file, read it back, decode."""
    codec: AudioCodec = _worker["codec"]
    media = _media(clip.read(codec.info.sample_rate))
    began = _now()
    tokens = codec.encode(media, codebooks)
    encoded = _now()
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.ztok")
        _write(tokens, codec.info, path)
        file_bytes = path.stat().st_size
        read, code_bytes = _read(path, tokens)
    started = _now()
    audio = codec.decode(read)
    decoded = _now()
    histograms = [
        torch.bincount(codes.cpu(), minlength=size).numpy()
        for codes, size in zip(tokens.codes[0], codec.info.codebook_sizes, strict=False)
    ]
    return Trip(_mono(audio), code_bytes, file_bytes, encoded - began, decoded - started, histograms)


def at_level(clip: Clip, decibels: float, codebooks: int, delay: int) -> tuple[Score, float]:
    """PESQ with the input scaled and the output scaled back, and the share of codes that are those of the original."""
    codec: AudioCodec = _worker["codec"]
    reference = clip.read(codec.info.sample_rate)
    media, gain = _media(reference), 10 ** (decibels / 20)
    tokens = codec.encode(media * gain, codebooks)
    audio = _mono(codec.decode(tokens)) / gain
    equal = (tokens.codes == codec.encode(media, codebooks).codes).double().mean()
    return pesq_wb(*shift(reference, audio, delay), codec.info.sample_rate), float(equal)


def _write(tokens: Tokens, info: CodecInfo, path: Path) -> None:
    scales = None if tokens.scales is None else tuple(tokens.scales.tolist())
    header = TokenHeader(
        tokens.codec, tokens.weights, info.sample_rate, info.hop, info.channels,
        info.codebook_sizes[: tokens.codes.shape[1]], 1, info.channels, False, info.sample_rate, scales,
    )  # fmt: skip
    with TokenWriter(path, header) as writer:
        writer.write(tokens.codes)
        writer.finish(int(tokens.lengths[0]), int(tokens.lengths[0]))


def _read(path: Path, tokens: Tokens) -> tuple[Tokens, int]:
    """Tokens as the file holds them, on the device of those that were written, and the bytes that its codes take."""
    device = tokens.codes.device
    with TokenReader(path) as reader:
        read = reader.tokens()
        scales = None if read.scales is None else read.scales.to(device)
        return replace(read, codes=read.codes.to(device), scales=scales), reader.code_bytes


def _media(samples: np.ndarray) -> Tensor:
    """Mono samples as the codec's input `[1, channel, time]`, the same in each channel."""
    return torch.from_numpy(samples).to(_worker["device"]).expand(1, _worker["codec"].info.channels, -1)


def _mono(media: Tensor) -> np.ndarray:
    return media[0].mean(0).float().cpu().numpy()


def _now() -> float:
    if _worker["device"].startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()
