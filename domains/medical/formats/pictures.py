"""PNG, JPEG and TIFF pictures: grey or colour, 0 to 1, upright as their EXIF orientation says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from domains.medical.formats.limits import Limits
from domains.medical.formats.quiet import quietly
from hub.doubts import Doubt
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source

MAGIC: Mapping[bytes, str] = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Picture:
    """What a picture file holds.

    Attributes:
        values: ``(channels, rows, columns)`` float32, 0 to 1; 1 or 3 channels.
        bits: Of a channel in the file.
        warnings: What a user should know, one sentence each.
    """

    values: NDArray[np.float32] = field(repr=False)
    bits: int
    warnings: tuple[str, ...] = ()


def format_of(head: bytes) -> str | None:
    """Return Pillow's name of a picture's format by its first bytes, or ``None``."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def read_picture(source: Source, kind: str, limits: Limits) -> Picture:
    """Read a picture of one frame.

    Args:
        source: The file.
        kind: The only format that Pillow may take it for.
        limits: Held against the header before pixels are decoded.

    Raises:
        UnsupportedFormat: Several frames, or values without a known range.
        TooLarge: The header announces more than the limits allow.
        InvalidInput: It is damaged or cut off.
    """
    image = _decoded(source, kind, limits)
    warnings = []
    if image.mode in _SIXTEEN:
        return Picture(np.asarray(image, np.float32)[np.newaxis] / np.float32(65535), 16)
    if image.mode == "F":
        values = np.asarray(image, np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            raise UnsupportedFormat(
                "floating-point pixels that are not between 0 and 1: their range is not known; save 8 or 16 bits",
                code="bad_range",
            )
        return Picture(values[np.newaxis], 32)
    if image.mode == "I":
        raise UnsupportedFormat("32-bit integers, whose range is not known; save 8 or 16 bits", code="bad_range")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        image = image.convert("L" if grey else "RGB")
        warnings.append(Doubt("The picture has an alpha channel: it is laid over black.", "converted"))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.asarray(image, np.float32) / np.float32(255)
    return Picture(values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1), 8, tuple(warnings))


def read_labels(source: Source, kind: str, limits: Limits) -> NDArray[np.int64]:
    """Return the stored numbers of a grey or palette picture, ``(rows, columns)``: a mask's classes.

    Raises:
        UnsupportedFormat: A colour picture.
        TooLarge: The header announces more than the limits allow.
        InvalidInput: It is damaged or cut off.
    """
    image = _decoded(source, kind, limits)
    if image.mode not in ("1", "L", "P", "I", *_SIXTEEN):
        raise UnsupportedFormat("a colour picture; a mask holds one class number a pixel", code="bad_mask")
    return np.asarray(image).astype(np.int64)


def _decoded(source: Source, kind: str, limits: Limits) -> Image.Image:
    try:
        with quietly(), source.open() as stream, Image.open(stream, formats=[kind]) as image:
            columns, rows = image.size
            limits.check_shape(1, 1, rows, columns)
            limits.check_expansion(rows * columns * len(image.getbands()), source.size)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise UnsupportedFormat(
                    f"the {kind} file holds {frames} pictures; give one of them as a file of its own",
                    code="several_frames",
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except InvalidInput:
        raise
    except Image.DecompressionBombError:
        raise TooLarge(
            f"the {kind} header announces more than the {limits.max_pixels:,} pixels that are read",
            code="too_many_pixels",
        ) from None
    except Exception:  # Pillow's plug-ins raise whatever a damaged file leads them to
        raise InvalidInput(f"the {kind} file is damaged or cut off", code="damaged") from None
