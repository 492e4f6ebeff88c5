"""Open an image file that may be anything: the pixels that the reference would see, or a named error.

What transformers' `load_image` does is kept: an image turned by its EXIF orientation is turned back, an animation gives
its first frame, transparency is dropped, every other mode becomes 8-bit RGB as Pillow converts it (16-bit grey is
clipped at 255). Beyond it, a file is judged before it is decoded: its kind, its length and its number of pixels, so
that memory stays bounded whatever lies in the file.
"""

import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from runtimes.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 50_000_000  # 150 MB as RGB: more than any phone's camera gives in one picture


def open_image(place: Path) -> Image.Image:
    """The image in a file as 8-bit RGB, upright."""
    try:
        length = place.stat().st_size
        if length > MAX_FILE_BYTES:
            raise ImageError(
                f"{place}: {length} bytes, more than the {MAX_FILE_BYTES} an image may have; make it smaller"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own bound is tighter than the one that Pillow warns of
            with Image.open(place, formats=FORMATS) as image:
                return _upright(image, place)
    except UnidentifiedImageError as error:
        raise ImageError(f"{place}: not an image of a known kind; give one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{place}: {error}; make it smaller") from error
    except OSError as error:
        if error.strerror is not None:
            raise ImageError(f"{place}: cannot be read: {error.strerror}") from error
        raise ImageError(f"{place}: damaged ({error}); copy or save it again") from error
    except (ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, struct.error) as error:
        raise ImageError(f"{place}: damaged ({error}); copy or save it again") from error  # what decoders raise


def _upright(image: Image.Image, place: Path) -> Image.Image:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{place}: {width} x {height} pixels, expected 1 to {MAX_PIXELS}; give another size")
    return ImageOps.exif_transpose(image).convert("RGB")
