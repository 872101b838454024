"""Picture files of every kind are read as upright opaque sRGB, or refused with one clear line; written whole or not."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError
from zoo.codecs.image import io as image_io
from zoo.codecs.image.io import image_writer, read_image, read_pixels, to_float, to_pixels, write_image

LOSSLESS = ("PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "QOI", "SGI", "DDS")
LOSSY = ("JPEG", "AVIF")


def photo(height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth colours with a bright corner, uint8 `[height, width, 3]`: no two ways to hold it look alike."""
    down, across = np.mgrid[:height, :width] / (height, width)[0]
    pixels = np.stack([90 + 60 * np.sin(3 * across), 60 + 90 * down, 200 - 80 * down * across], axis=2)
    pixels[:10, :14] = 250, 240, 30
    return pixels.clip(0, 255).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> Path:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if form == "WEBP":
        options.setdefault("lossless", True)
    image.save(path, form, **options)
    return path


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(MediaError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message
    return message


def raw_png(bits: int, colour: int, width: int, height: int, data: bytes, chunks: bytes = b"") -> bytes:
    """A PNG that Pillow itself cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def matrix_profile(columns: list[list[float]], gamma: float, description: str) -> bytes:
    """An ICC profile of a display with those primaries (XYZ columns) and that gamma."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    text = description.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + b"".join(map(number, (0.9642, 1, 0.8249))),
    }
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True):
        tags[name] = b"XYZ " + bytes(4) + b"".join(map(number, column))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(map(number, (0.9642, 1, 0.8249)))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("form", LOSSLESS + LOSSY)
def test_every_format_gives_the_picture_that_went_in(form, tmp_path) -> None:
    path = save(tmp_path / "a", photo(), form)
    picture = read_image(path)
    assert picture.shape == (3, 40, 56) and picture.dtype == np.float32
    difference = np.abs(picture - to_float(photo()))
    # JPEG and AVIF keep smooth colours within a few steps of 256, but for the corner's edge.
    assert difference.max() == 0 if form in LOSSLESS else np.median(difference) < 4 / 255


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a.wav", "a", "a.ztok"])
def test_content_decides_what_a_file_is(name, tmp_path) -> None:
    assert np.array_equal(read_pixels(save(tmp_path / name, photo())), photo())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright(orientation, form, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = photo()
    undone = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    camera = Image.fromarray(upright)
    camera.getexif()[0x0112] = undone
    stored = ImageOps.exif_transpose(camera)
    assert stored.size == ((56, 40) if orientation < 5 else (40, 56))
    found = read_pixels(save(tmp_path / "a", stored, form, exif=exif))
    assert found.shape == upright.shape
    assert np.median(np.abs(found.astype(int) - upright)) < 4


def test_an_orientation_that_is_none_is_passed_over(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(read_pixels(save(tmp_path / "a.png", photo(), exif=exif)), photo())
    broken = save(tmp_path / "b.png", photo(), exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    assert np.array_equal(read_pixels(broken), photo())


def test_transparent_parts_show_white(tmp_path) -> None:
    alpha = np.full((40, 56, 1), 255, np.uint8)
    alpha[:, 28:] = 0
    alpha[20:, :28] = 128
    found = read_pixels(save(tmp_path / "a.png", np.concatenate([photo(), alpha], axis=2))).astype(float)
    wanted = photo() * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(found - wanted).max() <= 1
    assert (found[:, 28:] == 255).all() and np.array_equal(found[:20, :28], photo()[:20, :28])


def test_grey_with_alpha_and_colours_named_transparent_show_white(tmp_path) -> None:
    grey = photo()[:, :, 0].copy()
    grey[5] = 7
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(np.where(grey == 7, 0, 255).astype(np.uint8))])
    wanted = np.where(grey == 7, 255, grey)[:, :, None].repeat(3, axis=2)
    assert np.array_equal(read_pixels(save(tmp_path / "la.png", la)), wanted)
    assert np.array_equal(read_pixels(save(tmp_path / "l.png", grey, transparency=7)), wanted)
    colour = photo()
    colour[5] = 1, 2, 3
    wanted = np.where((colour == (1, 2, 3)).all(axis=2, keepdims=True), 255, colour)
    assert np.array_equal(read_pixels(save(tmp_path / "rgb.png", colour, transparency=(1, 2, 3))), wanted)


def test_palettes_with_and_without_transparency(tmp_path) -> None:
    palette = Image.fromarray(photo()).quantize(16)
    wanted = np.asarray(palette.convert("RGB"))
    assert np.array_equal(read_pixels(save(tmp_path / "a.png", palette)), wanted)
    assert np.array_equal(read_pixels(save(tmp_path / "a.gif", palette, "GIF")), wanted)
    clear = np.asarray(palette) == 3
    assert clear.any() and not clear.all()
    found = read_pixels(save(tmp_path / "b.png", palette, transparency=3))
    assert np.array_equal(found, np.where(clear[:, :, None], 255, wanted))


def test_grey_and_one_bit_pictures_become_three_equal_colours(tmp_path) -> None:
    grey = photo()[:, :, 1]
    assert np.array_equal(read_pixels(save(tmp_path / "a.png", grey)), grey[:, :, None].repeat(3, axis=2))
    bits = Image.fromarray(grey > 100)
    assert bits.mode == "1"
    for form in ("PNG", "TIFF", "BMP"):
        found = read_pixels(save(tmp_path / form, bits, form))
        assert np.array_equal(found, np.where(grey > 100, 255, 0)[:, :, None].repeat(3, axis=2))


def test_grey_of_sixteen_bits_keeps_them(tmp_path) -> None:
    grey = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 29
    for path in (
        save(tmp_path / "a.png", grey),
        save(tmp_path / "a.tif", grey, "TIFF"),
        save(tmp_path / "a.pgm", grey, "PPM"),
    ):
        picture = read_image(path)
        assert np.abs(picture - grey / 65535).max() < 1e-6
    (tmp_path / "big-endian.tif").write_bytes(big_endian_tiff(grey))
    assert np.abs(read_image(tmp_path / "big-endian.tif") - grey / 65535).max() < 1e-6
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    (tmp_path / "clear.png").write_bytes(raw_png(16, 0, 56, 40, data, png_chunk(b"tRNS", struct.pack(">H", 29 * 58))))
    found = read_pixels(tmp_path / "clear.png")
    assert (found[1, 2] == 65535).all() and np.array_equal(found[2:, :, 0], grey[2:])


def big_endian_tiff(grey: np.ndarray) -> bytes:
    height, width = grey.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    entries = [(tag, 3, 1, value << 16) for tag, value in entries] + [(279, 4, 1, grey.size * 2)]
    table = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + table + bytes(4)
    return head.ljust(122, b"\0") + grey.astype(">u2").tobytes()


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_colours_of_sixteen_bits_are_right_to_eight(colour, channels, tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, channels)).astype(">u2")
    values[:, :, 3:] = 65535
    data = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(raw_png(16, colour, 8, 8, data))
    wanted = values[:, :, :3].transpose(2, 0, 1) / 65535
    assert np.abs(read_image(tmp_path / "a.png") - wanted).max() < 1.01 / 255


def test_fractions_are_read_if_white_is_one(tmp_path) -> None:
    grey = (photo()[:, :, 0] / 255).astype(np.float32)
    assert np.abs(read_image(save(tmp_path / "a.tif", grey, "TIFF")) - grey).max() < 1 / 65535
    assert "holds grey values from" in refusal(save(tmp_path / "b.tif", grey * 255, "TIFF"))
    grey[3, 3] = np.nan
    assert "holds grey values from nan to nan" in refusal(save(tmp_path / "c.tif", grey, "TIFF"))
    counts = np.full((4, 4), 10**6, np.int32)
    assert "scale them to 0..65535" in refusal(save(tmp_path / "d.tif", counts, "TIFF"))


def test_inks_become_colours(tmp_path) -> None:
    wanted = photo()
    inks = Image.fromarray(wanted).convert("CMYK")
    for form, within in (("TIFF", 2), ("JPEG", 12)):
        found = read_pixels(save(tmp_path / form, inks, form))
        assert np.median(np.abs(found.astype(int) - wanted)) <= within


def test_lab_becomes_srgb(tmp_path) -> None:
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(photo()), srgb, lab, outputMode="LAB")
    found = read_pixels(save(tmp_path / "a.tif", image, "TIFF"))
    assert np.abs(found.astype(int) - photo()).mean() < 1.5  # Lab, too, has 8 bits an axis


# Primaries of Adobe RGB (1998) under D50, as columns of XYZ.
WIDE = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_under_a_profile_become_srgb(form, alpha, tmp_path) -> None:
    if alpha and form == "JPEG":
        form = "PNG"
    wide = matrix_profile(WIDE, 2.19921875, "wide")
    source = photo()
    # By hand: linear light, the profile's primaries to XYZ (D50), XYZ to linear sRGB, and sRGB's curve.
    xyz = (source / 255.0) ** 2.19921875 @ np.array(WIDE)
    to_srgb = np.linalg.inv([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
    linear = (xyz @ to_srgb).clip(0, 1)
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    image = Image.fromarray(source)
    if alpha:
        image.putalpha(255)
    found = read_pixels(save(tmp_path / "a", image, form, icc_profile=wide))
    assert np.abs(found - wanted).mean() < (4 if form == "JPEG" else 1)
    assert np.abs(wanted - source).mean() > 7  # so the profile matters


def test_grey_with_alpha_under_a_profile_keeps_its_shape(tmp_path) -> None:
    grey = Image.fromarray(photo()[:, :, 0])
    grey.putalpha(255)
    found = read_pixels(save(tmp_path / "a.png", grey, icc_profile=matrix_profile(WIDE, 2.2, "not for grey")))
    assert np.array_equal(found, photo()[:, :, :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    "profile", [b"garbage", b"\0" * 200, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_profile_that_is_damaged_or_does_not_fit_is_passed_over(profile, tmp_path) -> None:
    assert np.array_equal(read_pixels(save(tmp_path / "a.png", photo(), icc_profile=profile)), photo())


def test_the_srgb_profile_changes_nothing(tmp_path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_pixels(save(tmp_path / "a.png", photo(), icc_profile=profile)), photo())


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_read(form, tmp_path) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), colour, np.uint8)) for colour in (40, 120, 220)]
    path = save(tmp_path / "a", frames[0], form, save_all=True, append_images=frames[1:])
    with Image.open(path) as file:
        assert file.n_frames == 3
    assert np.abs(read_pixels(path).astype(int) - 40).max() <= 2


def test_a_picture_of_one_pixel_is_read(tmp_path) -> None:
    assert read_image(save(tmp_path / "a.png", photo(1, 1))).shape == (3, 1, 1)


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY, "GIF", "ICO"])
@pytest.mark.parametrize("part", [0.7, 0.3])
def test_a_file_that_lost_its_end_is_refused(form, part, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / "a", noise, form)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert any(cause in refusal(path) for cause in ("is truncated or damaged (", "too little is left of it"))


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY, "GIF", "ICO"])
def test_a_file_that_is_hardly_begun_is_refused(form, tmp_path) -> None:
    data = save(tmp_path / "a", photo(), form).read_bytes()
    for size in (1, 2, 8, 13):
        (tmp_path / "b").write_bytes(data[:size])
        assert refusal(tmp_path / "b")


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY, "GIF", "ICO"])
def test_damaged_bytes_give_a_picture_or_one_clear_line(form, tmp_path) -> None:
    draw = np.random.default_rng(0)
    data = save(tmp_path / "a", photo(), form).read_bytes()
    for _ in range(60):
        broken = bytearray(data)
        for at in draw.integers(0, min(len(data), 600), 4):
            broken[at] = draw.integers(256)
        (tmp_path / "b").write_bytes(broken)
        try:
            assert read_image(tmp_path / "b").shape[0] == 3
        except MediaError as error:
            assert str(error).startswith(f"{tmp_path}/b: ") and "\n" not in str(error)


def test_things_that_are_no_pictures_are_refused_by_name_and_cause(tmp_path) -> None:
    (tmp_path / "empty.png").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("Dear diary,\n" * 99)
    assert "is not a picture that Pillow can read" in refusal(tmp_path / "text.jpg")
    (tmp_path / "noise.png").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "is not a picture that Pillow can read" in refusal(tmp_path / "noise.png")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "convert it to png or jpg" in refusal(tmp_path / "drawing.svg")
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in refusal(tmp_path / "pipe.png")
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere.png")


def test_a_page_description_runs_no_program(tmp_path) -> None:
    # Pillow would hand it to Ghostscript.
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    assert "is not a picture that Pillow can read" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("side", [13_100, 20_000, 60_000])  # above our limit, above Pillow's, and absurd
def test_a_decompression_bomb_is_refused_by_its_header(side, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(raw_png(8, 2, side, side, bytes(1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "holds more than 170,000,000 pixels" in refusal(tmp_path / "a.png")


def test_the_limit_lies_well_above_8192_and_warns_of_nothing_below(tmp_path) -> None:
    assert image_io.MOST_PIXELS > 2 * 8192**2
    save(tmp_path / "a.png", Image.new("1", (10_000, 10_000)))  # above Pillow's threshold of a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pixels(tmp_path / "a.png").shape == (10_000, 10_000, 3)


def test_a_text_that_unpacks_to_a_hundred_times_its_size_is_refused(tmp_path) -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000)))
    data = b"".join(b"\0" + bytes(24) for _ in range(8))
    (tmp_path / "a.png").write_bytes(raw_png(8, 2, 8, 8, data, text))
    assert "is truncated or damaged" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("ending", image_io.FORMATS)
def test_every_ending_writes_its_format(ending, tmp_path) -> None:
    path = tmp_path / f"a{ending.upper()}"
    write_image(path, to_float(photo()))
    with Image.open(path) as file:
        form = file.format
    assert form == image_io.FORMATS[ending][0]
    difference = np.abs(read_pixels(path).astype(int) - photo())
    assert difference.max() == 0 if form not in LOSSY else np.median(difference) <= 2
    assert list(tmp_path.iterdir()) == [path]


def test_values_are_rounded_to_the_nearest_and_clipped() -> None:
    values = np.array([-0.3, 0, 0.49 / 255, 0.51 / 255, 100.4 / 255, 100.6 / 255, 1, 7], np.float32)
    picture = np.broadcast_to(values, (3, 1, len(values)))
    assert to_pixels(picture)[0, :, 1].tolist() == [0, 0, 0, 1, 100, 101, 255, 255]
    every = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    assert np.array_equal(to_pixels(to_float(every)), every)
    with pytest.raises(ValueError, match="NaN"):
        to_pixels(np.full((3, 2, 2), np.nan))


def test_what_cannot_be_written_is_refused_before_and_leaves_nothing(tmp_path) -> None:
    def refused(path: Path, cause: str) -> None:
        with pytest.raises(UserError, match=cause) as caught, image_writer(path):
            raise AssertionError("the work should not have begun")
        assert str(path) in str(caught.value)

    refused(tmp_path / "a.gifx", r"choose a name that ends in \.png, ")
    refused(tmp_path / "a", "choose a name that ends in")
    refused(tmp_path / "none" / "a.png", "does not exist; create it first")
    (tmp_path / "a.png").mkdir()
    refused(tmp_path / "a.png", "is not a regular file")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_too_large_for_its_format_is_one_line_and_no_file(tmp_path) -> None:
    wide = np.zeros((1, 66_000, 3), np.uint8)
    for ending in (".webp", ".jpg"):
        with pytest.raises(UserError, match=r"cannot hold 66000 x 1 pixels \(.+\); write \.png"):
            with image_writer(tmp_path / f"a{ending}") as write:
                write(wide)
    assert list(tmp_path.iterdir()) == []


def test_an_old_picture_stays_until_the_new_one_is_whole(tmp_path) -> None:
    path = save(tmp_path / "a.png", photo())
    with pytest.raises(KeyError), image_writer(path) as write:
        write(photo(3, 3))
        raise KeyError("something else went wrong")
    assert np.array_equal(read_pixels(path), photo()) and list(tmp_path.iterdir()) == [path]
