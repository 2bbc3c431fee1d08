"""ZIP archives of unknown origin: what may be wrong with one, and which members are read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable

from hub.errors import InvalidInput

DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
)
"""What ``zipfile`` raises on damaged archives. `InvalidInput` is one of them, as a ``ValueError``."""

METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def check_members(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise InvalidInput where a member is encrypted, or packed otherwise than by deflate.

    An LZMA member says itself how much memory its decoder takes, up to 4 GiB, and BZIP2 expands without a bound that
    its directory would tell.
    """
    for member in members:
        if member.flag_bits & 1:
            raise InvalidInput("the ZIP archive is encrypted; send it without a password", code="encrypted")
        if member.compress_type not in METHODS:
            raise InvalidInput(
                "the ZIP archive is packed by another method than deflate, which is the one that is read; pack it with "
                "the usual settings",
                code="zip_method",
            )
