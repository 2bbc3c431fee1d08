"""What a header may announce, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from hub.errors import InvalidInput, TooLarge

KNOWN = "GeoTIFF, COSAR (.cos), NITF, Sentinel-1 SAFE folders, HDF5, ENVI, NumPy .npy, and 8-bit grey PNG or JPEG chips"


@dataclass(frozen=True)
class Limits:
    """How large an image may be.

    Attributes:
        max_bytes: Largest file.
        max_pixels: Most pixels of a band.
        max_bands: Most bands.
        max_expansion: Largest ratio of decoded to stored bytes.
    """

    max_bytes: int
    max_pixels: int
    max_bands: int
    max_expansion: int

    def check_file(self, size: int) -> None:
        """Raise InvalidInput or TooLarge for a file that is not even opened."""
        if size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if size > self.max_bytes:
            raise TooLarge(f"the file has {size:,} bytes; at most {self.max_bytes:,} are read")

    def check_shape(self, bands: int, rows: int, columns: int) -> None:
        """Raise InvalidInput or TooLarge for what a header announces."""
        if min(bands, rows, columns) < 1:
            raise InvalidInput(f"the image is empty: {bands} bands of {rows} x {columns} pixels", code="empty")
        if rows * columns > self.max_pixels:
            raise TooLarge(
                f"the header announces {rows:,} x {columns:,} pixels; at most {self.max_pixels:,} are read",
                code="too_many_pixels",
            )
        if bands > self.max_bands:
            raise TooLarge(f"{bands} bands; at most {self.max_bands} are read", code="too_many_bands")

    def check_expansion(self, decoded: int, stored: int) -> None:
        """Raise TooLarge when a few bytes would decode to very many: SAR data hardly compress."""
        if decoded > self.max_expansion * max(stored, 1):
            raise TooLarge(
                f"{stored:,} bytes that decode to {decoded:,}: no SAR image compresses more than "
                f"{self.max_expansion} times, so this one is next to empty",
                code="expands_too_much",
            )
