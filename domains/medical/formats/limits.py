"""What a header may announce, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from hub.errors import InvalidInput, TooLarge

KNOWN = (
    "DICOM (a file, a folder or a ZIP of one series), NIfTI (.nii, .nii.gz), PNG, JPEG and TIFF pictures (all by "
    "content, whatever the suffix)"
)


SMALL = 1 << 22
"""Decoded bytes that do no harm, however few they were: an almost empty image is one."""


@dataclass(frozen=True)
class Limits:
    """How large an image may be.

    Attributes:
        max_bytes: Largest file, folder or unpacked archive.
        max_pixels: Most pixels of a slice.
        max_voxels: Most values of an image, all slices and channels.
        max_slices: Most slices, frames, or files of a folder or archive.
        max_expansion: Largest ratio of decoded to stored bytes.
        min_side: Fewest rows and columns.
    """

    max_bytes: int
    max_pixels: int
    max_voxels: int
    max_slices: int
    max_expansion: int
    min_side: int

    def check_bytes(self, size: int) -> None:
        """Raise InvalidInput or TooLarge for a file that is not even opened."""
        if size == 0:
            raise InvalidInput("the file is empty", code="empty")
        if size > self.max_bytes:
            raise TooLarge(f"there are {size:,} bytes; at most {self.max_bytes:,} are read")

    def check_shape(self, channels: int, slices: int, rows: int, columns: int) -> None:
        """Raise InvalidInput or TooLarge for what a header announces."""
        if min(channels, slices, rows, columns) < 1:
            raise InvalidInput(
                f"the header announces {slices} slices of {rows} x {columns} pixels: there is nothing in the image",
                code="empty",
            )
        if slices > self.max_slices:
            raise TooLarge(f"{slices:,} slices; at most {self.max_slices:,} are read", code="too_many_slices")
        if rows * columns > self.max_pixels or channels * slices * rows * columns > self.max_voxels:
            raise TooLarge(
                f"the header announces {slices:,} slices of {rows:,} x {columns:,} pixels; at most {self.max_pixels:,} "
                f"pixels a slice and {self.max_voxels:,} values in all are read",
                code="too_many_pixels",
            )
        if min(rows, columns) < self.min_side:
            raise InvalidInput(
                f"{rows} x {columns} pixels; an image has at least {self.min_side} rows and columns", code="too_small"
            )

    def check_expansion(self, decoded: int, stored: int) -> None:
        """Raise TooLarge when a few bytes would decode to very many."""
        if decoded > max(SMALL, self.max_expansion * stored):
            raise TooLarge(
                f"{stored:,} bytes that decode to {decoded:,}: no medical image compresses more than "
                f"{self.max_expansion} times",
                code="expands_too_much",
            )
