"""Damaged and hostile images: the pixels that a plain reading gives, or a refusal; never more."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps
from test_data_images import noise, refused

from convatlas.data.images import SUFFIXES, Sizing, UnreadableImage, decode, read_image

pytestmark = pytest.mark.filterwarnings("ignore")  # what Pillow says of damage, in our own reading

FORMAT = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
    ".png": "PNG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".webp": "WEBP",
    **dict.fromkeys([".jfif", ".jpe", ".jpeg", ".jpg"], "JPEG"),
    **dict.fromkeys([".tif", ".tiff"], "TIFF"),
}
COLOUR = Image.fromarray(noise(17, 13))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def saved(format: str, image: Image.Image = COLOUR, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def transparent() -> Image.Image:
    return Image.fromarray(noise(17, 13, 4), "RGBA")


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("JPEG", exif=TURNED, icc_profile=b"no profile at all"),
    "progressive jpeg": lambda: saved("JPEG", progressive=True),
    "cmyk jpeg": lambda: saved("JPEG", COLOUR.convert("CMYK")),
    "grey jpeg": lambda: saved("JPEG", COLOUR.convert("L")),
    "png": lambda: saved("PNG", exif=TURNED),
    "palette png": lambda: saved("PNG", COLOUR.quantize(16), transparency=b"\0\x80"),
    "sixteen bit png": lambda: saved("PNG", Image.fromarray(noise(9, 9, 1).astype("u2") * 257)),
    "one bit png": lambda: saved("PNG", COLOUR.convert("1")),
    "transparent png": lambda: saved("PNG", transparent()),
    "animated png": lambda: saved("PNG", save_all=True, append_images=[COLOUR.rotate(90)]),
    "gif": lambda: saved("GIF"),
    "animated gif": lambda: saved("GIF", save_all=True, append_images=[COLOUR.rotate(90)]),
    "tiff": lambda: saved("TIFF", exif=TURNED),
    "lzw tiff": lambda: saved("TIFF", compression="tiff_lzw"),
    "jpeg tiff": lambda: saved("TIFF", compression="jpeg"),
    "big-endian tiff": lambda: saved("TIFF", Image.fromarray(noise(9, 9, 1).astype(">u2") * 257)),
    "many-paged tiff": lambda: saved("TIFF", save_all=True, append_images=[COLOUR.rotate(90)]),
    "bmp": lambda: saved("BMP"),
    "palette bmp": lambda: saved("BMP", COLOUR.quantize(16)),
    "webp": lambda: saved("WEBP", transparent(), exif=TURNED),
    "lossless webp": lambda: saved("WEBP", lossless=True),
    "animated webp": lambda: saved(
        "WEBP", lossless=True, save_all=True, append_images=[COLOUR.rotate(90)]
    ),
    "ppm": lambda: saved("PPM"),
    "pbm": lambda: saved("PPM", COLOUR.convert("1")),
    "jpeg 2000": lambda: saved("JPEG2000"),
    "lossy jpeg 2000": lambda: saved("JPEG2000", irreversible=True, quality_layers=[5]),
    "bare jpeg 2000": lambda: saved("JPEG2000", no_jp2=True),
    "avif": lambda: saved("AVIF", transparent()),
}
ANIMATED = [kind for kind in KINDS if "animated" in kind or "paged" in kind]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.jpg"  # whatever the content is: it is told from the content alone


def plainly(content: bytes) -> np.ndarray:
    """Decode as the documentation says in words, without the package; (H,W,3) float."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        format = image.format
        with suppress(Exception):  # notes about the camera may be damaged
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        assert format != "TIFF" or image.mode.startswith("I;16")
        return np.repeat((np.asarray(image) // 256)[..., None], 3, axis=2).astype(float)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")).astype(float)
    values = np.asarray(image.convert("RGBA")).astype(float)
    opacity = values[..., 3:] / 255
    return values[..., :3] * opacity + 255 * (1 - opacity)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_decodes_as_it_plainly_should(path: Path, kind: str) -> None:
    path.write_bytes(KINDS[kind]())
    assert close(np.asarray(decode(path)), plainly(path.read_bytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_decodes_as_it_plainly_should_or_is_refused(path: Path, kind: str) -> None:
    whole = KINDS[kind]()

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(
        changes=st.lists(
            st.tuples(
                st.integers(0, min(99, len(whole) - 1)) | st.integers(0, len(whole) - 1),
                st.binary(max_size=4),
                st.integers(0, 4),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def check(changes: list[tuple[int, bytes, int]]) -> None:
        content = whole
        for at, new, cut in changes:
            content = content[:at] + new + content[at + cut :]
        path.write_bytes(content)
        try:
            decoded = np.asarray(decode(path))
        except UnreadableImage:
            return
        assert decoded.dtype == np.uint8
        assert close(decoded, plainly(content))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_shows_all_its_pixels_or_is_refused(path: Path, kind: str) -> None:
    whole = KINDS[kind]()
    path.write_bytes(whole)
    pixels = np.asarray(decode(path))

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(length=st.integers(1, len(whole) - 1))
    def check(length: int) -> None:
        path.write_bytes(whole[:length])
        with suppress(UnreadableImage):
            assert np.array_equal(np.asarray(decode(path)), pixels)

    check()


@pytest.mark.parametrize("image", [COLOUR.convert("LA"), transparent(), COLOUR.quantize(200)])
def test_every_byte_of_a_png_counts(path: Path, image: Image.Image) -> None:
    """Pillow alone leaves out the checksum of the pixels, and shows what the damage made."""
    whole = saved("PNG", image)
    path.write_bytes(whole)
    pixels = np.asarray(decode(path))
    start, end = whole.index(b"IDAT"), whole.index(b"IEND") - 4
    for at in range(start, end, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with suppress(UnreadableImage):
            assert np.array_equal(np.asarray(decode(path)), pixels)
    path.write_bytes(whole[: end - 1] + bytes([whole[end - 1] ^ 1]) + whole[end:])
    assert "checksum" in refused(path)


@pytest.mark.parametrize("options", [{}, {"quality_layers": [5]}, {"no_jp2": True}])
def test_no_jpeg_2000_is_filled_up_in_silence(path: Path, options: dict[str, Any]) -> None:
    image = Image.fromarray(noise(24, 20))
    whole = saved("JPEG2000", image, irreversible="quality_layers" in options, **options)
    path.write_bytes(whole + b"\0\0\0")
    decode(path)
    for length in range(len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_an_image_may_have_any_suffix_of_an_image(tmp_path: Path, suffix: str) -> None:
    assert FORMAT.keys() == SUFFIXES
    path = tmp_path / f"a{suffix.upper()}"
    for format in set(FORMAT.values()):
        content = saved(format)
        path.write_bytes(content)
        assert close(np.asarray(decode(path)), plainly(content))


@pytest.mark.parametrize("kind", ANIMATED)
def test_of_many_images_the_first_is_taken(path: Path, kind: str) -> None:
    path.write_bytes(KINDS[kind]())
    first = np.asarray(COLOUR).astype(int)
    # GIF has 256 colours, but the second image is turned by a quarter.
    assert np.abs(np.asarray(decode(path)) - first).mean() < 40
    turned = np.asarray(COLOUR.rotate(90)).astype(int)
    assert np.abs(np.asarray(decode(path)) - turned).mean() > 50


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (2, 1)])
def test_tiny_and_narrow_images(path: Path, height: int, width: int) -> None:
    pixels = noise(height, width)
    path.write_bytes(saved("PNG", Image.fromarray(pixels)))
    assert np.array_equal(read_image(path, None), pixels)
    assert read_image(path, Sizing(8, 8)).shape == (8, 8, 3)


# ------------------------------------------------------------ files that mean harm


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_ghostscript_is_never_started(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / f"a{suffix}"
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    length = len(script).to_bytes(4, "little")
    binary = b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + length + bytes(18) + script
    for content in (binary, b"%PDF-1.4\n", b"\n" + script, b"<svg/>", b"<?php ?>", script):
        path.write_bytes(content)
        assert refused(path) == "it isn't an image"
    assert not trace.exists()
    with suppress(Exception):
        Image.open(path).load()
    assert trace.exists(), "Pillow by itself would have started it"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*between: bytes, width: int = 4, height: int = 4, data: bytes | None = None) -> bytes:
    rows = zlib.compress(bytes((3 * width + 1) * min(height, 4))) if data is None else data
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [header, *between, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    )


def tiff(strip: int, directory: int = 16) -> bytes:
    """Return a 4 x 4 BigTIFF whose pixels and whose directory lie where they are said to."""
    tags = [(256, 4, 4), (257, 4, 4), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 16, strip)]
    tags += [(277, 3, 1), (278, 4, 4), (279, 4, 16)]
    body = struct.pack("<Q", len(tags))
    body += b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", directory) + body + bytes(24)


BOMB = zlib.compress(bytes(2**26), 9)
HARMFUL = {
    "60,000 x 60,000": png(width=60_000, height=60_000),
    "2^31 x 1": png(width=2**31 - 1, height=1, data=b""),
    "a gif of 65,535 x 65,535": b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(9) + b"\x02\0;",
    "packed text": png(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "packed profile": png(chunk(b"iCCP", b"a\0\0" + BOMB)),
    "packed words": png(chunk(b"iTXt", b"a\0\x01\0\0\0" + BOMB)),
    "no rows": png(data=b""),
    "no pixels": png(width=0, height=0),
    "a directory at 2^62": tiff(16, directory=2**62),
    "a directory at 2^64": tiff(16, directory=2**64 - 1),
    "pixels at 2^62": tiff(2**62),
    "pixels at 2^63": tiff(2**63),
    "an endless number": b"P5 " + b"9" * 5000 + b" 9 255\n",
    "a bmp without rows": b"BM"
    + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 9, 9, 1, 24, *[0] * 6),
    "packed rows of a bmp": b"BM"
    + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 13_000, 13_000, 1, 8, 1, *[0] * 5)
    + b"\0\1",
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_file_that_would_fill_the_memory_or_misleads_is_refused(path: Path, kind: str) -> None:
    path.write_bytes(HARMFUL[kind])
    assert len(refused(path)) < 320


def test_the_harmless_forms_of_these_are_taken(path: Path) -> None:
    for content in (tiff(200), png(), png(chunk(b"tEXt", b"a\0b")), png(data=BOMB)):
        path.write_bytes(content)
        assert not np.asarray(decode(path)).any()


def test_a_name_with_controls_is_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31m.png"
    path.touch()
    with pytest.raises(UnreadableImage, match=r"a\\n\\x1b\[31m\.png: it is empty\.$"):
        decode(path)
    with pytest.raises(UnreadableImage, match="there is no such file"):
        decode(tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(UnreadableImage, match="there is no such file"):
        decode(tmp_path / "\0.png")
