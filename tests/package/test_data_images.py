"""Image files of every kind, decoded and sized."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convatlas.data import images
from convatlas.data.images import Sizing, UnreadableImage, decode, fit, read_image

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "photos"


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(path: Path, values: np.ndarray, colour_type: int, bits: int = 16) -> Path:
    """Write a PNG by hand: Pillow writes 16 bits for greyscale only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# --------------------------------------------------------------------- decoding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    """A file whose rows were stored turned comes out as the scene was seen."""
    scene = np.zeros((32, 48, 3), np.uint8)
    scene[:16, :16] = (255, 0, 0)  # top left red, top right green
    scene[:16, 32:] = (0, 255, 0)
    stored = {  # Exif 2.3: which side of the scene the stored first row and column are
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1),
        7: np.rot90(scene, 2).transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if suffix in ("jpg", "webp") else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = saved(tmp_path / f"a.{suffix}", image, exif=exif, **options)
    decoded = np.asarray(decode(path)).astype(int)
    assert decoded.shape == scene.shape
    assert np.abs(decoded[4:12, 4:12] - (255, 0, 0)).max() < 12
    assert np.abs(decoded[4:12, 36:44] - (0, 255, 0)).max() < 12


def test_broken_exif_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(pixels), exif=b"Exif\0\0MM\0*garbage" * 3)
    assert decode(path).size == (8, 8)


def test_greyscale_gives_equal_channels(tmp_path: Path) -> None:
    grey = noise(7, 9, 1)
    decoded = np.asarray(decode(saved(tmp_path / "a.png", Image.fromarray(grey))))
    assert (decoded == grey[..., None]).all()


def test_one_bit_image_is_black_and_white(tmp_path: Path) -> None:
    bits = noise(5, 5, 1) > 127
    decoded = np.asarray(decode(saved(tmp_path / "a.png", Image.fromarray(bits))))
    assert (decoded == np.where(bits, 255, 0)[..., None]).all()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_keeps_its_colours(tmp_path: Path, suffix: str) -> None:
    colours = np.zeros((16, 48, 3), np.uint8)
    colours[:, :16], colours[:, 16:32], colours[:, 32:] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    image = Image.fromarray(colours).convert("CMYK")
    decoded = np.asarray(decode(saved(tmp_path / f"a.{suffix}", image))).astype(int)
    assert np.abs(decoded[8, [8, 24, 40]] - colours[8, [8, 24, 40]]).max() < 12


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 51]]], np.uint8)
    decoded = np.asarray(decode(saved(tmp_path / "a.png", Image.fromarray(pixels, "RGBA"))))
    # 51 / 255 is a fifth: 0.2 * 200 + 0.8 * 255 = 244, 0.8 * 255 = 204
    assert decoded.tolist() == [[[255, 255, 255], [200, 0, 0], [244, 204, 204]]]


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[100, 0], [100, 255]]], np.uint8)
    decoded = np.asarray(decode(saved(tmp_path / "a.png", Image.fromarray(pixels, "LA"))))
    assert decoded[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency_is_laid_on_white(
    tmp_path: Path, transparency: int | bytes
) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = saved(tmp_path / "a.png", image, transparency=transparency)
    assert np.asarray(decode(path)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_transparent_colour_of_an_rgb_png(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    path = saved(tmp_path / "a.png", image, transparency=(1, 2, 3))
    assert np.asarray(decode(path)).tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (6, 4)])
def test_sixteen_bits_are_scaled_not_clipped(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    levels = np.arange(256, dtype=np.uint16)
    values = np.repeat((levels * 257)[None, :, None], channels, axis=2)
    if channels == 4:
        values[..., 3] = 65535
    path = png(tmp_path / "a.png", values, colour_type)
    assert (np.asarray(decode(path)) == levels[None, :, None]).all()


@pytest.mark.parametrize("suffix", ["pgm", "tif"])
def test_sixteen_bits_of_other_formats(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 32768, 65535]], np.uint16)
    if suffix == "pgm":
        path = tmp_path / "a.pgm"
        path.write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    else:
        path = saved(tmp_path / "a.tif", Image.fromarray(values))
    assert np.asarray(decode(path))[0, :, 0].tolist() == [0, 128, 255]


def test_first_image_of_an_animation(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    path = saved(tmp_path / "a.gif", red, save_all=True, append_images=[blue])
    assert (np.asarray(decode(path)) == (255, 0, 0)).all()


def test_one_pixel_fills_the_square(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[[9, 8, 7]]], np.uint8)))
    assert (read_image(path, Sizing(32, 28)) == (9, 8, 7)).all()


@pytest.mark.parametrize("name", ["Größe Ångström.png", "写真 01.png", "фото.png", "🦩.png"])
def test_names_in_any_script(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, Image.fromarray(noise(4, 4)))
    assert decode(path).size == (4, 4)


# ---------------------------------------------------------------- what can't be read


def refused(path: Path) -> str:
    """Return why a file is refused; the message names the file, the reason doesn't."""
    with pytest.raises(UnreadableImage) as caught:
        read_image(path, Sizing(32, 32))
    assert str(path) in str(caught.value)
    assert str(path.parent) not in caught.value.reason
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise(64, 64)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_file_without_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    assert refused(path) == "it is empty"


def test_text_named_as_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("Not Found")
    assert refused(path) == "it isn't an image"


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert refused(path) == "it isn't an image"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.jpg") == "there is no such file"
    (tmp_path / "folder.jpg").mkdir()
    assert refused(tmp_path / "folder.jpg") == "there is no such file"


def test_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert refused(tmp_path / "a.jpg") == "there is no such file"


def test_decompression_bomb(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.zeros((1, 1), np.uint8), 0, bits=8)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    assert "million pixels" in refused(path)


def test_long_and_narrow_image_would_fill_the_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (1, 60_000)))
    with pytest.raises(UnreadableImage, match="too long and narrow"):
        read_image(path, Sizing(256, 224))


def test_values_without_a_range(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((2, 2), np.float32)))
    assert "no known range" in refused(path)


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    """Flipped bytes give an image or our error, whatever Pillow raises at them."""
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png", "gif", "tif", "bmp", "webp", "ppm"):
        path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise(24, 24)))
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, min(len(whole), 200), 8)] = rng.integers(0, 256, 8)
            path.write_bytes(broken.tobytes())
            with suppress(UnreadableImage):
                assert decode(path).mode == "RGB"


def test_pillow_warnings_go_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(noise(40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with caplog.at_level("INFO"):
        assert decode(path).size == (40, 40)
    assert str(path) in caplog.text
    assert "decompression bomb" in caplog.text


def test_limit_is_pillows() -> None:
    assert images._MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


# ------------------------------------------------------------------------- sizing


def torchvision_fit(image: Image.Image, sizing: Sizing) -> np.ndarray:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    mode = InterpolationMode(sizing.interpolation)
    resize = Resize(sizing.resize, interpolation=mode, antialias=True)
    return np.asarray(CenterCrop(sizing.crop)(resize(image)))


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    resize=st.integers(1, 120),
    crop=st.integers(1, 120),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_sizing_equals_torchvisions(
    height: int, width: int, resize: int, crop: int, interpolation: str
) -> None:
    sizing = Sizing(resize, min(crop, resize), interpolation)
    image = Image.fromarray(noise(height, width))
    assert (np.asarray(fit(image, sizing)) == torchvision_fit(image, sizing)).all()


def test_sizing_equals_torchvisions_on_photographs() -> None:
    if not REAL.is_dir():
        pytest.skip("no folder ../shared/data/photos beside the repository")
    for path in sorted(REAL.iterdir())[::10]:
        for sizing in (Sizing(256, 227), Sizing(255, 224, "bicubic")):
            with Image.open(path) as image:
                expected = torchvision_fit(image.convert("RGB"), sizing)
            assert (read_image(path, sizing) == expected).all(), path.name
