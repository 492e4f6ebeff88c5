"""Whatever a file holds, opening it gives the reference's pixels or a named error, within bounded memory."""

import contextlib
import functools
import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]
from transformers.image_utils import load_image

from runtimes.errors import ImageError
from runtimes.vision import images
from runtimes.vision.images import open_image

PHOTO = Image.fromarray(load_sample_image("china.jpg")).resize((120, 80))
GREY16 = Image.fromarray((np.arange(120 * 80).reshape(80, 120) * 6).astype(np.uint16))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PHOTO, "JPEG", exif=exif)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and holds hardly a byte."""
    chunks = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return chunks


READABLE: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(PHOTO, "JPEG"),
    "png": lambda: encoded(PHOTO, "PNG"),
    "webp": lambda: encoded(PHOTO, "WEBP"),
    "one pixel": lambda: encoded(PHOTO.resize((1, 1)), "PNG"),
    "cmyk": lambda: encoded(PHOTO.convert("CMYK"), "JPEG"),
    "transparent": lambda: encoded(PHOTO.convert("RGBA"), "PNG"),
    "palette with transparency": lambda: encoded(PHOTO.quantize(16), "GIF", transparency=3),
    "grey": lambda: encoded(PHOTO.convert("L"), "JPEG"),
    "one bit": lambda: encoded(PHOTO.convert("1"), "PNG"),
    "16 bit": lambda: encoded(GREY16, "PNG"),
    "animated": lambda: encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90), PHOTO.rotate(180)]),
    **{f"turned {orientation}": functools.partial(turned, orientation) for orientation in range(1, 9)},
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated jpeg": (lambda: encoded(PHOTO, "JPEG")[:2000], "damaged"),
    "truncated png": (lambda: encoded(PHOTO, "PNG")[:3000], "damaged"),
    "half a header": (lambda: encoded(PHOTO, "PNG")[:20], "damaged|not an image"),
    "empty": (lambda: b"", "not an image of a known kind"),
    "text": (lambda: b"hello, I am a photo", "not an image of a known kind"),
    "a PDF's kind, which Pillow could hand to another program": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known kind"),
    "a decompression bomb": (lambda: png_header(30_000, 30_000), "30000 x 30000 pixels|decompression bomb"),
    "one pixel more than allowed": (lambda: png_header(images.MAX_PIXELS + 1, 1), "50000001 x 1 pixels, expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(READABLE))
def test_pixels_are_those_that_the_reference_opens(name: str, tmp_path: Path) -> None:
    place = tmp_path / "image"
    place.write_bytes(READABLE[name]())
    found = open_image(place)
    with Image.open(place) as image:
        wanted = load_image(image)
    assert found.mode == "RGB"
    assert found.size == wanted.size
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_image_is_a_named_error(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    place = tmp_path / "image"
    place.write_bytes(content())
    with pytest.raises(ImageError, match=said) as raised:
        open_image(place)
    assert str(place) in str(raised.value)


def test_a_missing_file_and_a_directory_are_named_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="directory"):
        open_image(tmp_path)


def test_a_file_too_long_is_not_even_opened(tmp_path: Path) -> None:
    place = tmp_path / "long.jpg"
    with place.open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="67108865 bytes, more than the 67108864 an image may have"):
        open_image(place)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    place = tmp_path / "bomb.png"
    place.write_bytes(png_header(12_000, 12_000))  # below what Pillow itself refuses
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="12000 x 12000 pixels"):
        open_image(place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


@pytest.mark.parametrize("seed", range(20))
def test_bytes_changed_at_random_never_escape_as_another_error(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    for name in ("jpeg", "png", "webp", "animated", "turned 6"):
        content = bytearray(READABLE[name]())
        for at in random.integers(len(content), size=12):
            content[at] = random.integers(256)
        place = tmp_path / "image"
        place.write_bytes(content)
        with contextlib.suppress(ImageError):
            assert open_image(place).mode == "RGB"
