"""A token file gives back what was written, from any frame on, and never anything else."""

import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.codecs.errors import UserError
from zoo.container import (
    CRC,
    END,
    FACTS,
    MAGIC,
    PREFIX,
    TRAILER,
    TokenFileError,
    TokenHeader,
    TokenReader,
    TokenWriter,
    is_token_file,
    measured_kbps,
)

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


def random_codes(header: TokenHeader, frames: int, seed: int = 0) -> torch.Tensor:
    """Codes `[row, codebook, frame]` that use the first and the last code of every codebook."""
    draw = np.random.default_rng(seed)
    sizes = np.array(header.codebook_sizes)[None, :, None]
    codes = draw.integers(0, sizes, (header.rows, len(header.codebook_sizes), frames))
    codes[0, :, 0], codes[-1, :, -1] = 0, sizes[0, :, 0] - 1
    return torch.from_numpy(codes)


def write(path: Path, codes: torch.Tensor, header: TokenHeader = HEADER, cuts: tuple[int, ...] = ()) -> Path:
    with TokenWriter(path, header) as writer:
        for part in torch.tensor_split(codes, cuts, dim=2):
            writer.write(part)
        length = codes.shape[2] * header.hop - 5
        writer.finish(length, round(length * header.original_rate / header.sample_rate))
    return path


def read_all(path: Path) -> tuple[TokenHeader, int, int, torch.Tensor]:
    with TokenReader(path) as reader:
        return reader.header, reader.length, reader.original_length, reader.read()


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 32, 100])
def test_codes_come_back_as_they_were_written(frames: int, tmp_path: Path) -> None:
    codes = random_codes(HEADER, frames)
    header, length, original_length, read = read_all(write(tmp_path / "a.ztok", codes))
    assert header == HEADER and length == original_length == frames * 320 - 5
    assert read.dtype == torch.int64 and torch.equal(read, codes)


@pytest.mark.parametrize("sizes", [(2,), (3,), (256,), (1 << 24,), (1024,) * 32, tuple(range(2, 66))])
def test_any_codebook_sizes_pack(sizes: tuple[int, ...], tmp_path: Path) -> None:
    header = replace(HEADER, codebook_sizes=sizes, rows=1, channels=1, scales=None)
    codes = random_codes(header, 37)
    read = read_all(write(tmp_path / "a.ztok", codes, header))
    assert read[0] == header and torch.equal(read[3], codes)


def test_the_file_does_not_depend_on_how_it_was_written(tmp_path: Path) -> None:
    codes = random_codes(HEADER, 100)
    whole = write(tmp_path / "whole.ztok", codes).read_bytes()
    assert write(tmp_path / "parts.ztok", codes, cuts=(1, 1, 7, 50, 99)).read_bytes() == whole


def test_reading_may_start_and_stop_at_any_frame(tmp_path: Path) -> None:
    codes = random_codes(HEADER, 50)
    with TokenReader(write(tmp_path / "a.ztok", codes)) as reader:
        for start in range(51):
            for stop in range(start, 51):
                assert torch.equal(reader.read(start, stop), codes[..., start:stop])
        assert torch.equal(torch.cat(list(reader.blocks(7, 3, 45)), dim=2), codes[..., 3:45])
        with pytest.raises(ValueError, match="0..50"):
            reader.read(0, 51)


def test_the_size_is_what_the_documentation_says(tmp_path: Path) -> None:
    # 50 Hz, 8 codebooks of 10 bits: 4 kbps, 500 bytes a second.
    header = replace(HEADER, codebook_sizes=(1024,) * 8, rows=1, channels=1, scales=(1.0,), block_frames=256)
    for seconds, overhead in ((3, 141), (60, 185)):
        path = write(tmp_path / "a.ztok", random_codes(header, 50 * seconds), header)
        assert path.stat().st_size == 500 * seconds + overhead
        samples = seconds * 16000 - 5
        assert measured_kbps(path) == pytest.approx(path.stat().st_size * 8 / (samples / 16000) / 1000)


def test_every_change_of_a_single_byte_is_found(tmp_path: Path) -> None:
    header = replace(HEADER, weights="abcd", codebook_sizes=(100, 2), block_frames=4)
    path = write(tmp_path / "a.ztok", random_codes(header, 10), header)
    data = path.read_bytes()
    for place in range(len(data)):
        for value in set(range(256)) - {data[place]}:
            overwrite(path, data[:place] + bytes([value]) + data[place + 1 :])
            assert_refused(path)


def test_ten_thousand_random_mutations_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ztok", random_codes(HEADER, 400))
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


def assert_refused(path: Path) -> None:
    try:
        read_all(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        raise AssertionError(f"read damaged data without complaint: {path.read_bytes().hex()}")


def test_blocks_in_the_wrong_place_or_from_another_file_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ztok", random_codes(HEADER, 64))
    data = path.read_bytes()
    size = 16 * HEADER.bits // 8 + CRC.size
    start = len(data) - TRAILER.size - 4 * size
    blocks = [data[start + i * size :][:size] for i in range(4)]
    swapped = data[:start] + b"".join([blocks[1], blocks[0], *blocks[2:]]) + data[-TRAILER.size :]
    path.write_bytes(swapped)
    with pytest.raises(TokenFileError, match="block 0 .* is damaged"):
        read_all(path)
    other = write(tmp_path / "b.ztok", random_codes(HEADER, 64), replace(HEADER, scales=(0.5, 0.25))).read_bytes()
    path.write_bytes(data[:start] + other[start:][:size] + data[start + size :])
    with pytest.raises(TokenFileError, match="block 0 .* is damaged"):
        read_all(path)
    path.write_bytes(data[:start] + data[start + size :])
    with pytest.raises(TokenFileError, match="bytes long"):
        read_all(path)


def test_seeking_past_a_damaged_block_still_works(tmp_path: Path) -> None:
    codes = random_codes(HEADER, 64)
    path = write(tmp_path / "a.ztok", codes)
    data = bytearray(path.read_bytes())
    data[-TRAILER.size - 1] ^= 1  # in the last block's check value
    path.write_bytes(data)
    with TokenReader(path) as reader:
        assert torch.equal(reader.read(0, 48), codes[..., :48])
        with pytest.raises(TokenFileError, match=r"block 3 \(frame 48 on\) is damaged"):
            reader.read(48, 49)


def forged(packed: bytes, version: int = 1, flags: int = 0, frames: int = 1, length: int = 320, blocks: bytes = b""):
    """A file with right check values whatever it says."""
    head = PREFIX.pack(MAGIC, version, flags, len(packed)) + packed
    seed = zlib.crc32(head)
    trailer = struct.pack("<QQQ", frames, length, length)
    return head + CRC.pack(seed) + blocks + trailer + CRC.pack(zlib.crc32(trailer, seed)) + END


def forged_header(**fields: int) -> bytes:
    facts = {
        "media": 1, "mixed": 0, "rate": 16000, "original": 16000, "hop": 320, "codec_channels": 1, "channels": 1,
        "rows": 1, "block": 16, "gains": 0, "runs": 1,
    }  # fmt: skip
    return FACTS.pack(*(facts | fields).values()) + struct.pack("<HI", 1, 1024) + b"\0\0"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (forged(forged_header(), version=2), "version 2"),
        (forged(forged_header(), flags=1), "flags 1"),
        (forged(forged_header(media=2)), "media that this version does not know"),
        (forged(forged_header(mixed=7)), "the one allowed form"),
        (forged(forged_header(rate=0)), "sample rate 0"),
        (forged(forged_header(original=0)), "original sample rate 0"),
        (forged(forged_header(hop=0)), "hop 0"),
        (forged(forged_header(channels=0, rows=0)), "channel count 0"),
        (forged(forged_header(codec_channels=0)), "codec channel count 0"),
        (forged(forged_header(rows=9)), "row count 9"),
        (forged(forged_header(block=0)), "block size 0"),
        (forged(forged_header(runs=0)), "makes no sense"),
        (forged(forged_header(runs=255)), "makes no sense"),
        (forged(forged_header() + b"\0"), "the one allowed form"),
        (forged(forged_header()[:5]), "makes no sense"),
        (forged(forged_header(), frames=2**63, length=2**63), "are right for its frames"),
        (forged(forged_header(), frames=0, length=0), "lengths contradict"),
        (forged(forged_header(), blocks=bytes(6), length=321), "lengths contradict"),
        (forged(forged_header(), blocks=bytes(6)), "block 0"),
    ],
)
def test_forged_files_with_right_check_values_are_refused(data: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.ztok"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(TokenFileError, match=cause):
        read_all(path)
    # The file has about 100 bytes; a reader that trusted what it says would ask for much more than this.
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
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
    path = write(tmp_path / "a.ztok", torch.full((2, 2, 4), 127), replace(header, codebook_sizes=(128, 128)))
    data = path.read_bytes()
    seed = zlib.crc32(data[: PREFIX.size] + replace(header, codebook_sizes=(100, 100)).pack())
    payload = data[-TRAILER.size - CRC.size - 14 : -TRAILER.size - CRC.size]
    block = payload + CRC.pack(zlib.crc32(payload, zlib.crc32(bytes(8), seed)))
    path.write_bytes(forged(replace(header, codebook_sizes=(100, 100)).pack(), frames=4, length=1275, blocks=block))
    with pytest.raises(TokenFileError, match="codes that its codebooks do not have"):
        read_all(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    assert not is_token_file(path) and is_token_file(write(tmp_path / "a.ztok", random_codes(HEADER, 3)))
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
    assert list(tmp_path.iterdir()) == []
