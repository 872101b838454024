"""A token file gives back what was written, from any frame on, and never anything else."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from first_version import CRC, FACTS, forged_first_version, write_first_version

import zoo
from zoo.codecs.base import CodecInfo, Tokens
from zoo.codecs.context import SOURCES, ContextModel, alphabets_of
from zoo.codecs.errors import UserError
from zoo.container import TokenFileError, TokenReader, is_token_file, measured_kbps
from zoo.container_blocks import block_crc
from zoo.container_header import MAGIC, TokenHeader, number, pack
from zoo.container_writer import TokenWriter, write_picture

# 2 streams of 4 codebooks whose sizes are mostly no powers of two: 2 * (10 + 7 + 1 + 18) bits a frame.
HEADER = TokenHeader(
    codec="toy.voice-16khz",
    weights="0123456789abcdef" * 4,
    sample_rate=16000,
    hop=320,
    codec_channels=1,
    codebook_sizes=(1024, 100, 2, 262144),
    rows=2,
    channels=2,
    mixed=False,
    original_rate=16000,
    scales=(0.5, 0.125),
    block_frames=16,
)
PICTURES = CodecInfo("image", 0, 3, 8, (256, 100, 1 << 18), False, None, 1)
TILES = replace(PICTURES, hop=16, tile=32, tile_codes=12)


def context_model(sizes: tuple[int, ...], dim: int = 3) -> ContextModel:
    """A model of codes that knows nothing, but is not uniform."""
    draw, alphabets = np.random.default_rng(0), alphabets_of(sizes)
    return ContextModel(
        sizes,
        [draw.integers(-127, 128, (n, dim)).astype(np.int8) for n in alphabets],
        [draw.integers(-40, 1, n).astype(np.int8) for n in alphabets],
        draw.integers(-999, 1000, (len(alphabets), SOURCES, dim, dim)).astype(np.int16),
        14,
    )


CONTEXT = context_model(HEADER.codebook_sizes)
CODINGS = {
    "packed": {},
    "adaptive": {"entropy": "adaptive"},
    "trained": {"entropy": "trained", "context": CONTEXT.digest[:8]},
    "packed depth": {"depth": True},
    "adaptive depth": {"entropy": "adaptive", "depth": True},
}
coded = pytest.mark.parametrize("header", [replace(HEADER, **coding) for coding in CODINGS.values()], ids=CODINGS)


def random_codes(header: TokenHeader, frames: int, seed: int = 0) -> torch.Tensor:
    """Codes `[row, codebook, frame]`, mostly few of each codebook, its first and last among them; -1 behind a depth."""
    draw = np.random.default_rng(seed)
    sizes = np.array(header.codebook_sizes)[None, :, None]
    codes = draw.integers(0, sizes, (header.rows, len(header.codebook_sizes), frames))
    codes = np.where(draw.random(codes.shape) < 0.7, codes % 2, codes)
    codes[0, :, 0], codes[-1, :, -1] = 0, sizes[0, :, 0] - 1
    if header.depth:
        depth = draw.integers(0, len(header.codebook_sizes) + 1, (header.rows, 1, frames))
        codes = np.where(np.arange(len(header.codebook_sizes))[:, None] < depth, codes, -1)
    return torch.from_numpy(codes)


def write(path: Path, codes: torch.Tensor, header: TokenHeader = HEADER, cuts: tuple[int, ...] = ()) -> Path:
    with TokenWriter(path, header, CONTEXT if header.context else None) as writer:
        for part in torch.tensor_split(codes, cuts, dim=2):
            writer.write(part, (part >= 0).sum(1) if header.depth else None)
        length = codes.shape[2] * header.hop - 5
        writer.finish(length, round(length * header.original_rate / header.sample_rate))
    return path


def read_all(path: Path) -> tuple[TokenHeader, int, int, torch.Tensor]:
    with TokenReader(path, CONTEXT) as reader:
        return reader.header, reader.length, reader.original_length, reader.tokens().codes


@coded
@pytest.mark.parametrize("frames", [1, 15, 16, 17, 32, 100])
def test_codes_come_back_as_they_were_written(header: TokenHeader, frames: int, tmp_path: Path) -> None:
    codes = random_codes(header, frames)
    read_header, length, original_length, read = read_all(write(tmp_path / "a.ztok", codes, header))
    assert read_header == header and length == original_length == frames * 320 - 5
    assert read.dtype == torch.int64 and torch.equal(read, codes)


@pytest.mark.parametrize("sizes", [(2,), (3,), (256,), (1 << 24,), (1024,) * 32, tuple(range(2, 66))])
@pytest.mark.parametrize("entropy", ["none", "adaptive"])
def test_any_codebook_sizes_fit(sizes: tuple[int, ...], entropy: str, tmp_path: Path) -> None:
    header = replace(HEADER, codebook_sizes=sizes, rows=1, channels=1, scales=None, entropy=entropy)
    codes = random_codes(header, 37)
    read = read_all(write(tmp_path / "a.ztok", codes, header))
    assert read[0] == header and torch.equal(read[3], codes)


@coded
def test_the_file_does_not_depend_on_how_it_was_written(header: TokenHeader, tmp_path: Path) -> None:
    codes = random_codes(header, 100)
    whole = write(tmp_path / "whole.ztok", codes, header).read_bytes()
    assert write(tmp_path / "parts.ztok", codes, header, cuts=(1, 1, 7, 50, 99)).read_bytes() == whole


@coded
def test_reading_may_start_and_stop_at_any_frame(header: TokenHeader, tmp_path: Path) -> None:
    codes = random_codes(header, 50)
    with TokenReader(write(tmp_path / "a.ztok", codes, header), CONTEXT) as reader:
        step = 1 if header == HEADER else 13
        for start in range(0, 51, step):
            for stop in range(start, 51, step):
                assert torch.equal(reader.read(start, stop), codes[..., start:stop])
        for size in (1, 7, 16, 40, 99):
            parts = list(reader.blocks(size, 3, 45))
            assert torch.equal(torch.cat(parts, dim=2), codes[..., 3:45])
            assert {part.shape[2] for part in parts[:-1]} <= {size}
        assert list(reader.blocks(7, 45, 45)) == []
        with pytest.raises(ValueError, match="0..50"):
            reader.read(0, 51)


@coded
def test_the_tokens_are_those_of_the_codec(header: TokenHeader, tmp_path: Path) -> None:
    codes = random_codes(header, 20)
    with TokenReader(write(tmp_path / "a.ztok", codes, header), CONTEXT) as reader:
        tokens = reader.tokens()
    assert torch.equal(tokens.codes, codes) and tokens.lengths.tolist() == [6395, 6395]
    assert tokens.scales.tolist() == [0.5, 0.125]
    assert (tokens.codec, tokens.weights) == (header.codec, header.weights)
    assert torch.equal(tokens.depth, (codes >= 0).sum(1)) if header.depth else tokens.depth is None


def test_the_size_is_what_the_documentation_says(tmp_path: Path) -> None:
    # 50 Hz, 8 codebooks of 10 bits: 4 kbps, 500 bytes a second. Around them: 70 bytes of header with name and digest
    # spelled out, 2 or 3 for the size of each block, 4 for each check value, and the lengths.
    header = replace(HEADER, codebook_sizes=(1024,) * 8, rows=1, channels=1, scales=(1.0,), block_frames=512)
    for seconds, overhead in ((3, 94), (60, 124)):
        path = write(tmp_path / "a.ztok", random_codes(header, 50 * seconds), header)
        with TokenReader(path) as reader:
            assert reader.code_bytes == 500 * seconds
        assert path.stat().st_size == 500 * seconds + overhead
        samples = seconds * 16000 - 5
        assert measured_kbps(path) == pytest.approx(path.stat().st_size * 8 / (samples / 16000) / 1000)


def test_entropy_coding_makes_files_smaller_and_never_larger(tmp_path: Path) -> None:
    def size(codes: torch.Tensor, entropy: str) -> int:
        header = replace(HEADER, entropy=entropy, block_frames=256)
        return write(tmp_path / "a.ztok", codes, header).stat().st_size

    some = random_codes(HEADER, 256)
    assert size(some, "adaptive") < 0.7 * size(some, "none")
    sizes = torch.tensor(HEADER.codebook_sizes)[:, None]
    noise = (torch.rand(2, 4, 256, generator=torch.Generator().manual_seed(0)) * sizes).long()
    assert size(noise[..., :9], "adaptive") == size(noise[..., :9], "none")


@dataclass(frozen=True)
class Kind:
    """A small file and a larger one of one kind, and what they hold."""

    write: Callable[[Path, int], object]
    small: int
    large: int


def picture(height: int, width: int, info: CodecInfo = PICTURES, depth: bool = False, rows: int = 1) -> Tokens:
    """Tokens of a picture of mostly few codes."""
    grid = (-(-height // info.hop), -(-width // info.hop))
    if info.tile:
        grid = (-(-height // info.tile) * -(-width // info.tile) * info.tile_codes,)
    draw = np.random.default_rng(0)
    sizes = np.array(info.codebook_sizes).reshape(-1, *[1] * len(grid))
    codes = torch.from_numpy(draw.integers(0, sizes, (rows, len(sizes), *grid)) % np.minimum(sizes, 5))
    depths = torch.from_numpy(draw.integers(0, len(sizes) + 1, (rows, *grid))) if depth else None
    if depths is not None:
        codes[torch.arange(len(sizes)).view(-1, *[1] * len(grid)) >= depths[:, None]] = -1
    return Tokens(codes, torch.tensor([[height, width]] * rows), None, "toy.image", "abcd", depths)


TINY = replace(
    HEADER, codec="a", weights="abcd", codebook_sizes=(100, 2), rows=1, channels=1, scales=None, block_frames=8
)
SMALL = context_model(PICTURES.codebook_sizes)
KINDS = {
    "first version": Kind(
        lambda path, n: write_first_version(path, random_codes(TINY, n), TINY), 10, 900
    ),
    "audio": Kind(lambda path, n: write(path, random_codes(TINY, n), TINY), 10, 900),
    "audio adaptive": Kind(
        lambda path, n: write(path, random_codes(TINY, n), replace(TINY, entropy="adaptive")), 20, 900
    ),
    "audio depth": Kind(
        lambda path, n: write(path, random_codes(replace(TINY, depth=True), n), replace(TINY, depth=True)), 20, 900
    ),
    "picture": Kind(lambda path, n: write_picture(path, picture(n, n), PICTURES, "none"), 24, 200),
    "picture adaptive": Kind(
        lambda path, n: write_picture(path, picture(n, n, depth=True), PICTURES, "adaptive"), 30, 200
    ),
    "picture trained": Kind(lambda path, n: write_picture(path, picture(n, n), PICTURES, "trained", SMALL), 40, 200),
    "tiles": Kind(lambda path, n: write_picture(path, picture(n, n, TILES), TILES, "adaptive"), 40, 200),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def assert_refused(path: Path) -> None:
    try:
        with TokenReader(path, SMALL) as reader:
            reader.tokens()
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        raise AssertionError(f"read damaged data without complaint: {path.read_bytes().hex()}")


@kinds
def test_every_change_of_a_single_byte_is_found(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "a.ztok"
    kind.write(path, kind.small)
    data = path.read_bytes()
    for place in range(len(data)):
        for value in set(range(256)) - {data[place]}:
            overwrite(path, data[:place] + bytes([value]) + data[place + 1 :])
            assert_refused(path)


@kinds
def test_ten_thousand_random_mutations_are_found(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "a.ztok"
    kind.write(path, kind.large)
    data, draw = path.read_bytes(), np.random.default_rng(1)
    for _ in range(10_000):
        overwrite(path, mutated(data, draw))
        assert_refused(path)


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """The data with one to four changes, insertions, deletions, truncations, repetitions or swaps; never the same."""
    changed = data
    while changed == data:
        for _ in range(draw.integers(1, 5)):
            first, second = sorted(int(i) for i in draw.integers(0, len(changed) + 1, 2))
            some = draw.bytes(int(draw.integers(1, 9)))
            changed = [
                lambda d, a, b, s: d[:a] + s + d[a + len(s) :],  # change
                lambda d, a, b, s: d[:a] + s + d[a:],  # insertion
                lambda d, a, b, s: d[:a] + d[b:],  # deletion
                lambda d, a, b, s: d[:a],  # truncation
                lambda d, a, b, s: d[:b] + d[a:b] + d[b:],  # repetition
                lambda d, a, b, s: d[:a] + d[b:] + d[a:b],  # swap of two parts
                lambda d, a, b, s: d[:a] + bytes(b - a) + d[b:],  # a hole of zeros
            ][draw.integers(0, 7)](changed, first, second, some)
    return changed


def overwrite(path: Path, data: bytes) -> None:
    """Give a file new content in place: file systems take their time when one is emptied and filled again."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def test_blocks_in_the_wrong_place_or_from_another_file_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ztok", random_codes(HEADER, 64))
    data = path.read_bytes()
    size = 2 + 16 * 2 * 36 // 8 + CRC.size  # of each block: its size, its codes, its check value
    start = len(pack(HEADER)) + CRC.size
    blocks, end = [data[start + i * size :][:size] for i in range(4)], data[start + 4 * size :]
    swapped = data[:start] + b"".join([blocks[1], blocks[0], *blocks[2:]]) + end
    path.write_bytes(swapped)
    with pytest.raises(TokenFileError, match="block 0 .* is damaged"):
        read_all(path)
    other = write(tmp_path / "b.ztok", random_codes(HEADER, 64), replace(HEADER, scales=(0.5, 0.25))).read_bytes()
    path.write_bytes(data[:start] + other[start:][:size] + data[start + size :])
    with pytest.raises(TokenFileError, match="block 0 .* is damaged"):
        read_all(path)
    path.write_bytes(data[:start] + data[start + size :])
    with pytest.raises(TokenFileError, match="trailer"):
        read_all(path)


@coded
def test_seeking_past_a_damaged_block_still_works(header: TokenHeader, tmp_path: Path) -> None:
    codes = random_codes(header, 64)
    path = write(tmp_path / "a.ztok", codes, header)
    data = bytearray(path.read_bytes())
    data[-18] ^= 1  # in the last block's codes or check value: the trailer has 12 bytes
    path.write_bytes(data)
    with TokenReader(path, CONTEXT) as reader:
        assert torch.equal(reader.read(0, 48), codes[..., :48])
        with pytest.raises(TokenFileError, match=r"block 3 \(frame 48 on\) is damaged"):
            reader.read(48, 49)


# --- pictures


@pytest.mark.parametrize("entropy", ["none", "adaptive", "trained"])
@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("info", [PICTURES, TILES], ids=["cells", "tiles"])
@pytest.mark.parametrize(("height", "width", "rows"), [(1, 1, 1), (64, 64, 1), (33, 257, 1), (40, 50, 3)])
def test_pictures_come_back_as_they_were_written(entropy, depth, info, height, width, rows, tmp_path: Path) -> None:
    tokens = picture(height, width, info, depth, rows)
    write_picture(tmp_path / "a.ztok", tokens, info, entropy, SMALL)
    with TokenReader(tmp_path / "a.ztok", SMALL) as reader:
        header, read, facts = reader.header, reader.tokens(), reader.facts()
        assert reader.bpp == facts["bpp"]
        assert reader.bpp == pytest.approx((tmp_path / "a.ztok").stat().st_size * 8 / (height * width * rows))
        with pytest.raises(ValueError, match="audio"):
            reader.read()
    assert torch.equal(read.codes, tokens.codes) and torch.equal(read.lengths, tokens.lengths)
    assert (read.codec, read.weights, read.scales) == ("toy.image", "abcd", None)
    assert torch.equal(read.depth, tokens.depth) if depth else read.depth is None
    assert (header.height, header.width, header.rows, header.depth) == (height, width, rows, depth)
    assert facts["media"] == "image"


@pytest.mark.parametrize("info", [PICTURES, replace(TILES, tile=256, tile_codes=128)], ids=["cells", "tiles"])
def test_a_picture_by_a_bundled_codec_has_at_most_24_bytes_around_its_codes(info, tmp_path: Path) -> None:
    manifest = zoo.info("spectral.speech-16khz")
    info = replace(info, codebook_sizes=(1024,) * 8)
    for depth in (False, True):
        tokens = replace(picture(512, 768, info, depth), codec=manifest.name, weights=manifest.sha256)
        write_picture(tmp_path / "a.ztok", tokens, info)
        with TokenReader(tmp_path / "a.ztok") as reader:
            assert (tmp_path / "a.ztok").stat().st_size - reader.code_bytes <= 24
            read = reader.tokens()
        assert (read.codec, read.weights) == (manifest.name, manifest.sha256)
        assert torch.equal(read.codes, tokens.codes)


def test_pictures_that_do_not_fit_their_header_are_not_written(tmp_path: Path) -> None:
    tokens = picture(64, 64)
    for wrong, cause in (
        (replace(tokens, lengths=torch.tensor([[64, 65]])), "has codes of shape"),
        (replace(tokens, codes=tokens.codes + 250), "below the size"),
        (replace(tokens, depth=torch.zeros(1, 8, 7)), "depth of shape"),
        (replace(picture(64, 64, rows=2), lengths=torch.tensor([[64, 64], [64, 63]])), "have one size"),
    ):
        with pytest.raises(ValueError, match=cause):
            write_picture(tmp_path / "a.ztok", wrong, PICTURES)
    with pytest.raises(ValueError, match="model of codes"):
        write_picture(tmp_path / "a.ztok", tokens, PICTURES, "trained")
    assert list(tmp_path.iterdir()) == []


# --- trained models of codes


def test_a_reader_without_the_trained_model_gives_one_error(tmp_path: Path) -> None:
    header = replace(HEADER, **CODINGS["trained"], block_frames=256)
    path = write(tmp_path / "a.ztok", random_codes(header, 256), header)
    for given in (None, context_model((1024, 100))):
        with TokenReader(path, given) as reader, pytest.raises(TokenFileError, match="need the trained model") as error:
            reader.read()
        assert header.context in str(error.value) and "--model" in str(error.value)
        with TokenReader(path, given) as reader:
            assert reader.facts()["entropy"] == "trained"  # what needs no codes works


def test_a_writer_takes_only_the_model_that_the_header_names(tmp_path: Path) -> None:
    header = replace(HEADER, **CODINGS["trained"])
    with pytest.raises(ValueError, match="names the model of codes"):
        TokenWriter(tmp_path / "a.ztok", header, context_model((1024, 100)))
    with pytest.raises(ValueError, match="needs the trained model"), TokenWriter(tmp_path / "a.ztok", header) as writer:
        writer.write(random_codes(header, 16))
    assert list(tmp_path.iterdir()) == []


def test_files_of_models_that_do_not_ship_any_more_are_told(tmp_path: Path) -> None:
    manifest = zoo.info("spectral.speech-16khz")
    header = replace(HEADER, codec=manifest.name, weights=manifest.sha256)
    data = bytearray(write(tmp_path / "a.ztok", random_codes(header, 3), header).read_bytes())
    data[6] ^= 1  # first byte of what stands for the model
    (tmp_path / "a.ztok").write_bytes(data)
    with pytest.raises(TokenFileError, match="does not ship with this program"):
        TokenReader(tmp_path / "a.ztok")


# --- forged files


def forged(head: bytes, frames: int = 1, length: int = 320, blocks: bytes = b"", count: int = 0) -> bytes:
    """A recording's file with right check values whatever it says."""
    seed = zlib.crc32(head)
    trailer = b"".join(map(number, (0, frames, length, length)))
    return head + CRC.pack(seed) + blocks + trailer + CRC.pack(block_crc(seed, count, trailer))


def forged_block(head: bytes, payload: bytes, entropy_coded: bool = False) -> bytes:
    data = number(2 * len(payload) + entropy_coded) + payload
    return data + CRC.pack(block_crc(zlib.crc32(head), 0, data))


def head(flags: int = 0, sizes: bytes = b"\x02\x15", facts: tuple[int, ...] = (16000, 16000, 320, 1, 1, 16)) -> bytes:
    """A header of a codec without a name: one codebook of 1024 codes."""
    return MAGIC + bytes([2, flags]) + b"\0\0" + sizes + b"".join(map(number, facts))


def forged_picture(flags: int = 1, facts: tuple[int, ...] = (8, 8, 8), payload: bytes = b"\0\0", **more) -> bytes:
    data = head(flags, facts=facts, **more) + payload
    return data + CRC.pack(zlib.crc32(data))


ONE = head()
ADAPTIVE = head(64)
HUGE = head(64, facts=(16000, 16000, 320, 1, 1, 65535))
FORGED_FIRST = {
    "media": 1, "mixed": 0, "rate": 16000, "original": 16000, "hop": 320, "codec_channels": 1, "channels": 1,
    "rows": 1, "block": 16, "gains": 0, "runs": 1,
}  # fmt: skip


def first_header(**fields: int) -> bytes:
    return FACTS.pack(*(FORGED_FIRST | fields).values()) + struct.pack("<HI", 1, 1024) + b"\0\0"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (forged_first_version(first_header(), version=2), "version 2"),
        (forged_first_version(first_header(), flags=1), "flags 1"),
        (forged_first_version(first_header(media=2)), "media that this version does not know"),
        (forged_first_version(first_header(mixed=7)), "the one allowed form"),
        (forged_first_version(first_header(rate=0)), "sample rate 0"),
        (forged_first_version(first_header(channels=0, rows=0)), "channel count 0"),
        (forged_first_version(first_header(rows=9)), "row count 9"),
        (forged_first_version(first_header(block=0)), "block size 0"),
        (forged_first_version(first_header(runs=255)), "makes no sense"),
        (forged_first_version(first_header() + b"\0"), "the one allowed form"),
        (forged_first_version(first_header()[:5]), "makes no sense"),
        (forged_first_version(first_header(), frames=2**63, length=2**63), "are right for its frames"),
        (forged_first_version(first_header(), frames=0, length=0), "lengths contradict"),
        (forged_first_version(first_header(), blocks=bytes(6), length=321), "lengths contradict"),
        (forged_first_version(first_header(), blocks=bytes(6)), "block 0"),
        (forged(MAGIC + b"\x03" + ONE[5:]), "version 03"),
        (forged(head(3 << 6)), "a way that this version does not know"),
        (forged(head(32)), "the one allowed form"),
        (forged(head(2)), "does not ship with this program"),
        (forged(head(sizes=b"\x00\x15")), "codebook count 0"),
        (forged(head(sizes=number(4096) + b"\x15")), "absurdly many"),
        (forged(head(sizes=b"\x02" + number(1 << 40))), "absurdly many or large"),
        (forged(head(sizes=b"\x02\x01")), "codebook size"),
        (forged(head(sizes=b"\x02" + number(2048))), "the one allowed form"),
        (forged(head(sizes=b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), "absurd number"),
        (forged(head(facts=(0, 16000, 320, 1, 1, 16))), "sample rate 0"),
        (forged(head(facts=(16000, 0, 320, 1, 1, 16))), "original sample rate 0"),
        (forged(head(facts=(16000, 16000, 0, 1, 1, 16))), "hop 0"),
        (forged(head(facts=(16000, 16000, 320, 0, 1, 16))), "codec channel count 0"),
        (forged(head(facts=(16000, 16000, 320, 1, 0, 16))), "channel count 0"),
        (forged(head(facts=(16000, 16000, 320, 1, 1 << 60, 16))), "channel count"),
        (forged(head(16, facts=(16000, 16000, 320, 1, 1 << 60, 16))), "ends too soon|damaged"),
        (forged(head(facts=(16000, 16000, 320, 1, 1, 0))), "block size 0"),
        (forged(head(facts=(16000, 16000))), "damaged"),
        (forged(ONE, frames=2**60, length=2**60), "blocks"),
        (forged(ONE, frames=0, length=0), "lengths contradict"),
        (forged(ONE, blocks=forged_block(ONE, b"\0\0"), count=1, length=321), "lengths contradict"),
        (forged(ONE, blocks=forged_block(ONE, b"\0\0\0"), count=1), "are right"),
        (forged(ONE, blocks=forged_block(ONE, b"\0"), count=1), "too few"),
        (forged(ONE, blocks=forged_block(ONE, b"\0", True), count=1), "entropy coded in a file that is not"),
        (forged(ONE, blocks=forged_block(ONE, b"\0\0"), count=0), "trailer"),
        (forged(HUGE, 65535, 65535 * 320, forged_block(HUGE, b"\0\0", True), 1), "too few"),
        (forged_picture(facts=(0, 8, 8)), "picture size 0"),
        (forged_picture(facts=(1 << 40, 8, 8)), "picture size"),
        (forged_picture(facts=(8, 8, 0)), "hop 0"),
        (forged_picture(9, facts=(8, 8, 0, 4)), "with tile 0"),
        (forged_picture(9, facts=(8, 8, 8, 0)), "0 of codes a tile"),
        (forged_picture(17, facts=(8, 8, 8, 0)), "0 of pictures"),
        (forged_picture(17, facts=(8, 8, 8, 1)), "the one allowed form"),
        (forged_picture(17, facts=(8, 8, 8, 1 << 23)), "too few"),
        (forged_picture(facts=(1 << 23, 1 << 23, 1)), "too few"),
        (forged_picture(5, facts=(1 << 23, 1 << 23, 1)), "too few"),
        (forged_picture(65, facts=(1 << 23, 1 << 23, 1)), "too few"),
        (forged_picture(69, facts=(1 << 23, 1 << 23, 1)), "too few"),
        (forged_picture(payload=b"\0\0\0"), "are right"),
    ],
)
def test_forged_files_with_right_check_values_are_refused(data: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.ztok"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(TokenFileError, match=cause):
        with TokenReader(path) as reader:
            reader.tokens()
    # The file has about 100 bytes; a reader that trusted what it says would ask for much more than this.
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_the_least_bytes_of_a_block_bound_what_a_forged_one_takes(tmp_path: Path) -> None:
    # 1024 codebooks of 1024 codes, 256 codes a byte, all contexts new: as much as 100 bytes can ask for.
    codebooks = head(64, number(2048) + b"\x15", (16000, 16000, 320, 1, 1, 16))
    path = tmp_path / "forged.ztok"
    path.write_bytes(forged(codebooks, 16, 16 * 320, forged_block(codebooks, bytes(range(1, 65)), True), 1))
    tracemalloc.start()
    with TokenReader(path) as reader, suppress(TokenFileError):
        reader.read()
    assert 10_000_000 < tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


def test_codes_that_a_codebook_does_not_have_are_refused_on_both_sides(tmp_path: Path) -> None:
    header = replace(HEADER, codebook_sizes=(100, 100))
    for bad in (-1, 100, 2**40):
        codes = random_codes(header, 4)
        codes[1, 1, 2] = bad
        with pytest.raises(ValueError, match="below the size"):
            write(tmp_path / "a.ztok", codes, header)
    assert list(tmp_path.iterdir()) == []
    # 7 bits can say 127: written by a codec with more codes under a header that claims fewer.
    claimed = head(sizes=b"\x02" + number(200))
    path = tmp_path / "a.ztok"
    path.write_bytes(forged(claimed, blocks=forged_block(claimed, b"\xff"), count=1))
    with pytest.raises(TokenFileError, match="codes that its codebooks do not have"):
        read_all(path)
    path = write_first_version(path, torch.full((2, 2, 4), 127), replace(header, codebook_sizes=(128, 128)), header)
    with pytest.raises(TokenFileError, match="codes that its codebooks do not have"):
        read_all(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    assert not is_token_file(path) and is_token_file(write(tmp_path / "a.ztok", random_codes(HEADER, 3)))
    for data in (MAGIC[:2], b"hello", b"\x89ZTOx"):
        path.write_bytes(data)
        with pytest.raises(TokenFileError, match="is not a token file"):
            TokenReader(path)
    for missing, cause in ((tmp_path, "is a folder"), (tmp_path / "no.ztok", "does not exist")):
        with pytest.raises(UserError, match=cause):
            TokenReader(missing)


def test_a_writer_that_fails_or_is_not_finished_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TokenWriter(tmp_path / "a.ztok", HEADER) as writer:
        writer.write(random_codes(HEADER, 40))
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="finish"), TokenWriter(tmp_path / "a.ztok", HEADER) as writer:
        writer.write(random_codes(HEADER, 40))
    with pytest.raises(ValueError, match="cannot stand for"), TokenWriter(tmp_path / "a.ztok", HEADER) as writer:
        writer.write(random_codes(HEADER, 40))
        writer.finish(320, 320)
    with pytest.raises(ValueError, match="expected codes of shape"), TokenWriter(tmp_path / "a.ztok", HEADER) as writer:
        writer.write(random_codes(HEADER, 40)[:1])
    with pytest.raises(ValueError, match="expected no depth"), TokenWriter(tmp_path / "a.ztok", HEADER) as writer:
        writer.write(random_codes(HEADER, 40), torch.zeros(2, 40, dtype=torch.int64))
    assert list(tmp_path.iterdir()) == []


# --- version 1


@pytest.mark.parametrize("frames", [1, 16, 100])
def test_files_of_the_first_version_are_read(frames: int, tmp_path: Path) -> None:
    codes = random_codes(HEADER, frames)
    path = write_first_version(tmp_path / "a.ztok", codes, HEADER)
    header, length, original_length, read = read_all(path)
    assert is_token_file(path) and header == HEADER and length == original_length == frames * 320
    assert torch.equal(read, codes)
    with TokenReader(path) as reader:
        assert torch.equal(reader.read(frames // 2, frames), codes[..., frames // 2 :])


def test_a_file_that_the_first_version_wrote_is_read(tmp_path: Path) -> None:
    # Written by the program when this was its only version: 3 frames of 2 codebooks, 5 and 1024.
    (tmp_path / "a.ztok").write_bytes(bytes.fromhex(WRITTEN))
    header, length, _, codes = read_all(tmp_path / "a.ztok")
    assert header == TokenHeader("toy.x", "abcd", 8000, 160, 1, (5, 1024), 1, 1, False, 8000, (0.25,), 256)
    assert length == 470 and codes.tolist() == [[[0, 4, 2], [1023, 0, 512]]]


WRITTEN = (
    "895a544f4b0d0a1a0100000031000100401f0000401f0000a000000001000100010000010102010005000000010000040000"
    "0000803e05746f792e7802abcd337a738b1ffc001400eb1631020300000000000000d601000000000000d601000000000000"
    "ccebc46f7a746f6b2e656e64"
)
