"""Image files as people have them, made into the 8-bit RGB squares that a network sees."""

from __future__ import annotations

import errno
import logging
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from convatlas.classes import one_line
from convatlas.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
"""Suffixes, in lower case, of the files that count as images in a folder."""

# Not all that Pillow knows: it would hand a PostScript file in disguise to Ghostscript.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 2 * 89_478_485  # where Pillow takes a file for a decompression bomb
_BLOCK = 1 << 20
_LONGEST = 300  # characters of what Pillow says of a file
_UPRIGHT = {  # Exif 2.3, tag 0x0112: how to turn an image so that its first row is on top
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DataError):
    """An image file that can't be used; `reason` says why, without naming the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{one_line(str(path))}: {reason}.")
        self.reason = reason


@dataclass(frozen=True)
class Sizing:
    """How an image becomes a square of `crop` pixels.

    Its shorter side is resized to `resize` pixels (at least `crop`), with the filter
    `interpolation` (bilinear or bicubic, antialiased); then the centre is cut out.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"


def read_image(path: Path, sizing: Sizing | None) -> NDArray[np.uint8]:
    """Return the image in a file as (H,W,3) uint8 RGB, in its own size if `sizing` is None.

    Raises
    ------
    UnreadableImage
        if there is no such file, or it isn't a whole image of a sensible size.
    """
    image = decode(path)
    try:
        return np.asarray(image if sizing is None else fit(image, sizing))
    except ValueError as error:
        raise UnreadableImage(path, str(error)) from error


# --------------------------------------------------------------------- decoding


def decode(path: Path) -> Image.Image:
    """Return the image in a file upright and as 8-bit RGB (see `to_rgb`).

    Of an animation or a file of many pages, the first image. What Pillow warns of is
    logged.

    Raises
    ------
    UnreadableImage
        if there is no such file, or it isn't a whole image of a sensible size.
    """
    if not is_file(path):  # a named pipe would make us wait for ever
        raise UnreadableImage(path, "there is no such file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                image.load()
                _check_whole(image, file)
                decoded = to_rgb(_upright(image))
        except UnidentifiedImageError as error:
            reason = "it is empty" if path.stat().st_size == 0 else "it isn't an image"
            raise UnreadableImage(path, reason) from error
        except Image.DecompressionBombError as error:
            reason = f"it has more than {_MOST_PIXELS / 1e6:.0f} million pixels"
            raise UnreadableImage(path, reason) from error
        except PermissionError as error:
            raise UnreadableImage(path, "we may not read it") from error
        except Exception as error:
            # A broken file can raise nearly anything in a decoder. Not its fault are
            # errors of the system, such as a disk that can't be read; but it is if the
            # system takes no offset as large as those that a TIFF file tells of.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise UnreadableImage(path, f"it can't be decoded ({_oneline(error)})") from error
    for text in sorted({_oneline(warning.message) for warning in caught}):
        log.info("%s: %s", one_line(str(path)), text)
    return decoded


def _check_whole(image: Image.Image, file: BinaryIO) -> None:
    """Find the damage that Pillow passes over: it fills what is missing, or shows what is wrong.

    Raises
    ------
    ValueError
        if the pixels of a PNG differ from their checksum, or the end of a JPEG 2000 is cut off.
    """
    if image.format == "PNG":
        _check_png(file)
    elif image.format == "JPEG2000" and _is_cut_off(file):
        raise ValueError("its end is missing")


def _check_png(file: BinaryIO) -> None:
    """Compare a PNG's IDAT chunks with their CRC; Pillow does it for all others."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        found = zlib.crc32(kind)
        while length and (block := file.read(min(length, _BLOCK))):
            found = zlib.crc32(block, found)
            length -= len(block)
        told = file.read(4)
        if len(told) == 4 and told != struct.pack(">I", found):
            raise ValueError("its pixels don't have the checksum that it tells")


def _is_cut_off(file: BinaryIO) -> bool:
    """Return whether the end of a JPEG 2000 codestream, in boxes or by itself, is missing."""
    size = file.seek(0, os.SEEK_END)
    start = 0
    file.seek(0)
    boxed = file.read(4) != b"\xff\x4f\xff\x51"  # SOC and SIZ, as a bare codestream begins
    while boxed and start < size:
        file.seek(start)
        length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = long if length == 1 else length
        if kind == b"jp2c" and length:
            return bool(start + length > size)
        if kind == b"jp2c" or length < 8:
            break
        start += length
    file.seek(max(0, size - 64))
    return not file.read().rstrip(b"\0").endswith(b"\xff\xd9")  # EOC


def is_file(path: Path) -> bool:
    """Return whether a path is that of a file; False for a name that can't even be one's."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, holds a byte 0, in a folder that we may not enter
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB.

    Transparency is laid on white, as on a page. Of 16-bit values the upper byte is
    kept, as Pillow does for colour, so a white pixel stays white; converting greyscale
    with Pillow alone would clip all above 255.

    Raises
    ------
    ValueError
        for 32-bit values, whose range isn't known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(_upper_byte(image)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit values have no known range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, opaque).convert("RGB")
    return image.convert("RGB")


def _upper_byte(image: Image.Image) -> NDArray[np.uint8]:
    values: NDArray[np.uint8] = (np.asarray(image) >> 8).astype(np.uint8)
    return values


def _upright(image: Image.Image) -> Image.Image:
    """Return a loaded image turned as its EXIF orientation says."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # a damaged note beside a whole image: other viewers ignore it too
        log.info("unreadable EXIF data ignored (%s)", _oneline(error))
        return image
    if orientation not in _UPRIGHT:
        return image
    turned = image.transpose(_UPRIGHT[orientation])
    turned.format = image.format  # says what range 32-bit values have
    return turned


def _oneline(error: object) -> str:
    text = one_line(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


# ----------------------------------------------------------------------- sizing


def fit(image: Image.Image, sizing: Sizing) -> Image.Image:
    """Return an image resized and its centre cut out.

    Gives what torchvision's ``Resize(resize)`` and ``CenterCrop(crop)`` give for a
    Pillow image, down to how odd sizes are rounded.

    Raises
    ------
    ValueError
        if the image is so long and narrow that it would fill the memory once resized.
    """
    width, height = _resized(image.size, sizing.resize)
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too long and narrow to resize the shorter "
            f"side to {sizing.resize}"
        )
    image = image.resize((width, height), Image.Resampling[sizing.interpolation.upper()])
    left, top = round((width - sizing.crop) / 2), round((height - sizing.crop) / 2)
    return image.crop((left, top, left + sizing.crop, top + sizing.crop))


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Return width and height once the shorter side is `shorter`."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
