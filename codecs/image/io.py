"""Picture files in and out: whatever a file holds becomes upright, opaque sRGB, or one clear error.

Pillow reads and writes. A file's content decides what it is, not its name. Of an animation the first frame is read, as
of a film its poster. Transparent parts show white, as on a page. Colours under an ICC profile become sRGB; a profile
that is damaged or does not fit the pixels is passed over, as browsers do. Of colours of 16 bits Pillow gives the upper
8; 16-bit grey keeps all.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from numpy import ndarray
from PIL import Image, ImageCms, UnidentifiedImageError

from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, MediaError, check_readable, printable

MOST_PIXELS = 170_000_000  # 13,000 x 13,000: as far as Pillow goes without changes to its process-wide limit
# Without formats that start other programs (EPS), draw (WMF), or have no mark to know them by (TGA, PCX).
READABLE = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "PSD", "QOI", "SGI", "DDS"
)  # fmt: skip
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {  # without loss where the format can
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
}
UPRIGHT = {  # EXIF's orientations, and what undoes them
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Pixels = UInt8[ndarray, "height width 3"] | UInt16[ndarray, "height width 3"]


def read_image(path: str | Path) -> Float32[ndarray, "3 height width"]:
    """A picture in [0, 1]; see `read_pixels`."""
    return to_float(read_pixels(path))


def read_pixels(path: str | Path) -> Pixels:
    """A picture's pixels, 0 to 255 or (from grey of more than 8 bits) 0 to 65535: a quarter of the memory of floats.

    Raises:
        MediaError: Missing, a folder, empty, truncated, damaged, no picture that Pillow can read, or larger than
            `MOST_PIXELS`.
    """
    path = Path(path)
    check_readable(path)
    return _pixels(path, path)


def decode_pixels(data: bytes, name: str | Path) -> Pixels:
    """As `read_pixels`, of what a picture file holds, such as a member of an archive; `name` is for messages."""
    return _pixels(io.BytesIO(data), Path(name))


def is_picture(path: str | Path) -> bool:
    """Whether a file begins as one of the formats that are read, be it damaged.

    Raises:
        MediaError: It cannot be opened, or there is nothing in it.
    """
    check_readable(path)
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            Image.open(file, formats=_formats()).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # damaged behind its first bytes, or too large
        return True
    return True


def to_float(pixels: Pixels) -> Float32[ndarray, "3 height width"]:
    """Pixels as a picture in [0, 1]."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / white


def to_pixels(picture: Float[ndarray, "3 height width"]) -> UInt8[ndarray, "height width 3"]:
    """A picture in [0, 1] (what lies outside is clipped) as 8-bit pixels, each rounded to the nearest."""
    if not np.isfinite(picture).all():
        raise ValueError("a picture holds NaN or infinite values and cannot be written")
    pixels = np.clip(picture, 0, 1)
    pixels *= 255
    pixels += 0.5
    return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def write_image(path: str | Path, picture: Float[ndarray, "3 height width"]) -> None:
    """Write a picture in [0, 1] with 8 bits a colour; see `image_writer`."""
    with image_writer(path) as write:
        write(to_pixels(picture))


@contextmanager
def image_writer(path: str | Path) -> Iterator[Callable[[UInt8[ndarray, "height width 3"]], None]]:
    """Write a picture file; it appears under its name when `with` ends well, and otherwise not at all.

    The name's ending chooses the format. `with` gives a function that takes all the pixels: a name that cannot be
    written is refused before the work that makes them.

    Raises:
        UserError: An ending of no known format, a place that cannot be written, or a picture too large for its format.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(
            f"{printable(path)}: cannot write a picture of that kind; choose a name that ends in {', '.join(FORMATS)}"
        )
    form, options = FORMATS[Path(path).suffix.lower()]
    with AtomicFile(path) as atomic:

        def write(pixels: UInt8[ndarray, "height width 3"]) -> None:
            data = io.BytesIO()  # so that what the system refuses is told from what the format does
            try:
                Image.fromarray(pixels).save(data, form, **options)
            except (OSError, ValueError, KeyError) as error:
                height, width, _ = pixels.shape
                cause = f"{form} cannot hold {width} x {height} pixels ({_one_line(error)})"
                raise UserError(f"{atomic.shown}: {cause}; write .png") from error
            atomic.write(data.getbuffer())

        yield write


def _pixels(source: Path | io.BytesIO, path: Path) -> Pixels:
    image, orientation = _load(source, path)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _deep_grey(path, image)
        return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    return np.asarray(_opaque(image))


def _load(source: Path | io.BytesIO, path: Path) -> tuple[Image.Image, int]:
    """A file's first frame, decoded, and its EXIF orientation; `path` is for messages."""
    try:
        with warnings.catch_warnings(), open(path, "rb") if source is path else source as file:
            warnings.simplefilter("ignore")  # of sizes within the limit, and of faults in what surrounds the pixels
            image = Image.open(file, formats=_formats())
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return image, _orientation(image)
    except Image.DecompressionBombError as error:
        raise MediaError(path, f"holds more than {MOST_PIXELS:,} pixels", "cut it into parts or shrink it") from error
    except UnidentifiedImageError as error:
        raise MediaError(
            path, "is not a picture that Pillow can read, or too little is left of it", "convert it to png or jpg"
        ) from error
    except Exception as error:  # Pillow's readers raise almost anything for damaged files
        cause = f"is truncated or damaged ({_one_line(error)})"
        raise MediaError(path, cause, "copy it again, or repair it with an image editor") from error


def _formats() -> list[str]:
    """Those of `READABLE` that this Pillow was built with."""
    Image.init()
    return [name for name in READABLE if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    """What EXIF says of a decoded picture; 1, which is upright, if that is damaged."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # as above; but here the pixels are sound
        return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _deep_grey(path: Path, image: Image.Image) -> UInt16[ndarray, "height width"]:
    """Grey of more than 8 bits: whole numbers up to 65535, or fractions up to 1."""
    values = np.asarray(image)
    white = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= white):  # also true for NaN
        raise MediaError(
            path, f"holds grey values from {values.min():g} to {values.max():g}", f"scale them to 0..{white}"
        )
    if image.mode == "F":
        values = values * np.float32(65535) + np.float32(0.5)
    grey = values.astype(np.uint16)
    if isinstance(clear := image.info.get("transparency"), int):
        grey[grey == clear] = 65535
    return grey


def _opaque(image: Image.Image) -> Image.Image:
    """The picture in sRGB on white."""
    grey = image.mode in ("1", "L", "LA", "La")
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("CMYK", "LAB"):
        image = _as(image, "L" if grey else "RGB")
    image = _to_srgb(image, profile)
    if alpha is not None:
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=alpha)
        return page
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours of an ICC profile, or of CIE Lab, as sRGB."""
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return _as(image, "RGB")
        if not ImageCms.getProfileDescription(source).startswith("sRGB"):  # or values would be rounded for nothing
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted or image  # None only where it converts in place
    except (ImageCms.PyCMSError, OSError):
        pass
    return _as(image, "RGB")


def _as(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which would copy
