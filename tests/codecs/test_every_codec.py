"""What holds for every audio codec: each registered one as a small random one, and each bundled checkpoint."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import TINY, noise, tiny
from ties import assert_same_codes, close, latents_of
from torch import Tensor

import zoo
from zoo import checkpoint
from zoo.codecs.audio.io import read_audio
from zoo.codecs.base import AudioCodec, Context
from zoo.container import TokenReader
from zoo.container_header import TokenHeader
from zoo.container_writer import TokenWriter
from zoo.registry import ARCHITECTURES, architecture_class

SPEECH = Path(zoo.__file__).parent / "assets" / "confbridge-pin.flac"
CASES = [(name, variant) for name, variants in TINY.items() for variant in variants]
CASES += [(name, "") for name in zoo.list_models() if name.partition(".")[0] in TINY]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(filter(None, case)))
def codec(request) -> AudioCodec:
    name, variant = request.param
    return tiny(name, variant) if variant else zoo.load(name)


@pytest.fixture(scope="module")
def media(codec) -> Tensor:
    """60 frames and a bit: the last frame is partial. Trained codecs get speech, for which noise is all alike."""
    time = 60 * codec.info.hop + 3
    if not codec.name:
        return noise(3, codec.info.channels, time)
    speech, _ = read_audio(SPEECH, codec.info.sample_rate, mono=True)
    rows = torch.from_numpy(np.resize(speech, (3, 1, time)))  # repeats it if it is too short
    return rows.expand(-1, codec.info.channels, -1).contiguous()


def test_every_architecture_is_tested():
    assert set(TINY) == {name for name in ARCHITECTURES if issubclass(architecture_class(name), AudioCodec)}


def test_the_codes_of_these_tests_are_varied(codec, media):
    # 183 frames that all got one code would pass most of what follows.
    codes = codec.encode(media).codes
    assert all(len(codes[:, level].unique()) >= 8 for level in range(codec.info.codebooks))


def test_the_samples_of_these_tests_are_varied(codec, media):
    # An output that hardly depends on the input would pass all that follows, too.
    found = codec.decode(codec.encode(media))
    other = codec.decode(codec.encode(media.flip(2)))
    assert (found - other).norm() > 0.3 * found.norm()


def test_a_single_wrong_code_is_told_from_a_tie(codec, media):
    codes = codec.encode(media).codes
    for level, size in enumerate(codec.info.codebook_sizes):
        wrong = codes.clone()
        wrong[1, level, 30] = (wrong[1, level, 30] + 1) % size
        with pytest.raises(AssertionError, match=f"row 1 cell 30 level {level}: no tie"):
            assert_same_codes(codec, media, wrong, codes)


def test_codes_do_not_depend_on_the_batch(codec, media):
    together = codec.encode(media)
    for row in range(len(media)):
        alone = codec.encode(media[row : row + 1])
        assert_same_codes(codec, media[row : row + 1], together.codes[row : row + 1], alone.codes)
        if alone.scales is not None:
            torch.testing.assert_close(together.scales[row : row + 1], alone.scales)


def test_codes_and_samples_do_not_depend_on_padding(codec, media):
    hop = codec.info.hop
    lengths = torch.tensor([media.shape[-1], 40 * hop, 17 * hop + 1])
    padded = media.clone()
    for row, length in enumerate(lengths):
        padded[row, :, length:] = float("nan")  # what is behind the end is never looked at
    tokens = codec.encode(padded, lengths=lengths)
    decoded = codec.decode(tokens)
    for row, length in enumerate(lengths.tolist()):
        own = media[row : row + 1, :, :length]
        frames = -(-length // hop)
        assert_same_codes(codec, own, tokens.codes[row : row + 1, :, :frames], codec.encode(own).codes)
        assert (tokens.codes[row, :, frames:] == -1).all()
        assert (decoded[row, :, length:] == 0).all()
        gain = None if tokens.scales is None else tokens.scales[row : row + 1]
        alone = replace(
            tokens, codes=tokens.codes[row : row + 1, :, :frames], lengths=torch.tensor([length]), scales=gain
        )
        close(decoded[row : row + 1, :, :length], codec.decode(alone))


@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_any_size_give_the_codes_of_the_whole(codec, media, seed):
    whole = codec.encode(media)
    state, parts, codebooks = codec.init_encoder(whole.scales), [], codec.info.codebooks - 1
    for chunk in pieces(media, seed, 7 * codec.info.hop):
        codes, state = codec.encode_chunk(chunk, state, codebooks)
        parts.append(codes)
    codes, _ = codec.encode_chunk(media[..., :0], state, codebooks, final=True)
    assert_same_codes(codec, media, torch.cat([*parts, codes], dim=-1), whole.codes[:, :codebooks])


@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_any_size_give_the_samples_of_the_whole(codec, media, seed):
    tokens = codec.encode(media)
    state, parts = codec.init_decoder(tokens.scales), []
    for chunk in pieces(tokens.codes, seed, 9):
        samples, state = codec.decode_chunk(chunk, state)
        parts.append(samples)
    samples, _ = codec.decode_chunk(tokens.codes[..., :0], state, final=True)
    joined = torch.cat([*parts, samples], dim=-1)
    assert joined.shape[-1] == tokens.codes.shape[-1] * codec.info.hop
    close(joined[..., : media.shape[-1]], codec.decode(tokens))


def test_codes_are_the_same_in_train_mode_and_encoding_learns_nothing(codec, media):
    training = copy.deepcopy(codec).train()
    assert_same_codes(codec, media, training.encode(media).codes, codec.encode(media).codes)
    before = codec.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.state_dict().items())


def test_codes_do_not_depend_on_the_number_of_threads(codec, media):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(media)
        torch.set_num_threads(3)
        assert_same_codes(codec, media, one.codes, codec.encode(media).codes)
    finally:
        torch.set_num_threads(threads)


def test_the_first_codebooks_are_a_prefix(codec, media):
    tokens = codec.encode(media)
    for n in range(1, codec.info.codebooks + 1):
        fewer = codec.encode(media, codebooks=n)
        assert fewer.codes.shape[1] == n
        assert_same_codes(codec, media, fewer.codes, tokens.codes[:, :n])
        close(codec.decode(fewer), codec.decode(tokens.first(n)))


def test_more_codebooks_change_the_reconstruction(codec, media):
    tokens = codec.encode(media)
    rates = [codec.decode(tokens.first(n)) for n in range(1, codec.info.codebooks + 1)]
    assert all(not torch.allclose(a, b) for a, b in zip(rates, rates[1:], strict=False))


def test_any_length_gives_the_stated_number_of_frames_and_its_own_length_back(codec):
    hop = codec.info.hop
    for time in (1, hop - 1, hop, hop + 1, 5 * hop + 2):
        tokens = codec.encode(noise(1, codec.info.channels, time))
        assert tokens.codes.shape == (1, codec.info.codebooks, -(-time // hop))
        media = codec.decode(tokens)
        assert media.shape == (1, codec.info.channels, time)
        assert media.isfinite().all()


def test_silence_stays_finite(codec):
    media = codec.decode(codec.encode(torch.zeros(1, codec.info.channels, 10 * codec.info.hop)))
    assert media.isfinite().all()


@pytest.mark.parametrize("codebooks", [1, None])
def test_the_stated_bitrate_is_what_a_token_file_grows_by(codec, tmp_path, codebooks):
    info, sizes = codec.info, []
    for frames in (80, 160):  # whole bytes of codes
        codes = codec.encode(noise(1, info.channels, frames * info.hop), codebooks).codes
        path = tmp_path / f"{frames}.ztok"
        header = TokenHeader(
            codec.name, codec.weights, info.sample_rate, info.hop, info.channels, info.codebook_sizes[:codebooks], 1,
            info.channels, False, info.sample_rate, block_frames=160, entropy="none",
        )  # fmt: skip
        with TokenWriter(path, header) as writer:
            writer.write(codes)
            writer.finish(frames * info.hop, frames * info.hop)
        with TokenReader(path) as reader:
            assert reader.code_bytes < path.stat().st_size
            sizes.append(reader.code_bytes)
    seconds = 80 * info.hop / info.sample_rate
    assert (sizes[1] - sizes[0]) * 8 / seconds / 1000 == pytest.approx(info.kbps(codebooks), rel=1e-9)


def test_the_stated_parameters_and_codebooks_are_there(codec, media):
    info = codec.info
    assert info.parameters == sum(p.numel() for p in codec.parameters() if p.requires_grad)
    assert info.frame_rate * info.hop == info.sample_rate
    codes = codec.encode(media).codes
    assert all(codes[:, level].max() < size for level, size in enumerate(info.codebook_sizes))


def test_encoder_and_decoder_reach_as_far_as_stated(codec):
    exact = copy.deepcopy(codec).double()
    hop = codec.info.hop
    reach = codec.context
    bounded = reach is not None and max(vars(reach).values()) < 1000
    frames = 2 * sum(vars(reach).values()) + 9 if bounded else 60
    middle = frames // 2
    lookahead = 0
    for frame in (0, middle):
        latents, seen = frames_seen_by_decoder(exact, frames, frame), samples_seen_by_encoder(exact, frames, frame)
        ends = samples_seen_by_encoder(exact, frames, int(latents.max()))
        lookahead = max(lookahead, int(ends.max()) + 1 - (frame + 1) * hop)
        if bounded and frame == middle:
            found = Context(
                encoder_past=int(frame - seen.min() // hop),
                encoder_future=int(seen.max() // hop - frame),
                decoder_past=int(frame - latents.min()),
                decoder_future=int(latents.max() - frame),
            )
            # In trained weights, units at the edge may be silent on this input: they may see less than is stated.
            less = all(vars(found)[side] <= vars(reach)[side] for side in vars(reach))
            assert less if codec.name else found == reach
    if codec.info.lookahead is not None:
        assert lookahead <= codec.info.lookahead
    if codec.info.causal:
        assert int(samples_seen_by_encoder(exact, frames, middle).max()) < (middle + 1) * hop
        assert int(frames_seen_by_decoder(exact, frames, middle).max()) == middle


def test_a_saved_codec_comes_back_with_the_same_codes_and_samples(codec, media, tmp_path):
    checkpoint.save(codec, tmp_path)
    again = checkpoint.load_directory(tmp_path)
    assert again.config == codec.config
    tokens = codec.encode(media)
    assert_same_codes(codec, media, again.encode(media).codes, tokens.codes)
    close(again.decode(replace(tokens, weights="")), codec.decode(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(codec, media, dtype):
    half = copy.deepcopy(codec).to(dtype)
    with torch.no_grad():
        wanted = codec(media, quantize=False).media
        found = half(media.to(dtype), quantize=False).media.float()
        assert half(media.to(dtype)).media.isfinite().all()
    tokens = half.encode(media.to(dtype))
    assert half.decode(tokens).isfinite().all()
    # bfloat16 has 8 bits of mantissa: an error of 2^-9 per operation, which some tens of layers add up
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_gradients_reach_every_parameter(codec, media):
    training = copy.deepcopy(codec).train().requires_grad_()
    output = training(media)
    (output.media.square().mean() + output.loss).backward()
    idle = [name for name, p in training.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_rows_may_use_different_numbers_of_codebooks(codec, media):
    with torch.no_grad():
        mixed = codec(media, codebooks=torch.tensor([1, 2, codec.info.codebooks])).media
        for row, n in enumerate([1, 2, codec.info.codebooks]):
            close(mixed[row : row + 1], codec(media[row : row + 1], codebooks=n).media)


def pieces(tensor: Tensor, seed: int, longest: int) -> Iterator[Tensor]:
    """The tensor cut along its last axis at random places; some pieces are empty."""
    draw, at = random.Random(seed), 0
    while at < tensor.shape[-1]:
        size = draw.randint(0, longest)
        yield tensor[..., at : at + size]
        at += size


def samples_seen_by_encoder(codec: AudioCodec, frames: int, frame: int) -> Tensor:
    """Indices of all input samples with an influence on the latent of `frame`."""
    media = noise(1, codec.info.channels, frames * codec.info.hop).double().requires_grad_()
    scales = None if codec.scale_of(media) is None else torch.ones(1, dtype=torch.float64)
    with latents_of(codec) as seen:
        codec.encode_rows(media, None, scales)
    (gradient,) = torch.autograd.grad(weighted(seen[0][..., frame]), media)
    return gradient[0].abs().sum(dim=0).nonzero().flatten()


def frames_seen_by_decoder(codec: AudioCodec, frames: int, frame: int) -> Tensor:
    """Indices of all latents with an influence on the samples of `frame`."""
    hop = codec.info.hop
    codes = torch.zeros(1, codec.info.codebooks, frames, dtype=torch.int64)
    latents = noise(1, codec.quantizer.decode(codes).shape[1], frames).double().requires_grad_()
    codec.quantizer.decode = lambda codes: latents
    try:
        media = codec.decode_rows(codes, None)
    finally:
        del codec.quantizer.decode
    (gradient,) = torch.autograd.grad(weighted(media[..., frame * hop : (frame + 1) * hop]), latents)
    return gradient[0].abs().sum(dim=0).nonzero().flatten()


def weighted(values: Tensor) -> Tensor:
    """A sum in which nothing cancels by chance."""
    return (values * torch.linspace(1, 2, values.numel(), dtype=values.dtype).view(values.shape)).sum()
