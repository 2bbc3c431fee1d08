"""ZIP archives of one recording in several files: a BrainVision triplet, a set with its .fdt, a file with its JSON."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from domains.eeg.formats.common import Limits
from hub.archives import DAMAGE, check_members
from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Source

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_MAX_MEMBERS = 100
_PARTS = {".eeg", ".vmrk", ".dat", ".fdt", ".json"}
"""Suffixes of what belongs to another file."""


def unpack(source: Source, folder: Path, limits: Limits) -> Path:
    """Write an archive's files into a folder, side by side, and return the one to read.

    Raises:
        UnsupportedFormat: It holds no recording, or more than one.
        InvalidInput: It is damaged or encrypted.
        TooLarge: It has too many members, or what they announce or expand to is too large.
    """
    try:
        with source.open() as stream, zipfile.ZipFile(stream) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not _is_hidden(m.filename)]
            if len(members) > _MAX_MEMBERS:
                raise TooLarge(f"the ZIP archive has {len(members):,} members; one recording has a few")
            check_members(members)
            if sum(m.file_size for m in members) > limits.max_bytes:
                raise TooLarge(f"the ZIP archive unpacks to more than {limits.max_bytes:,} bytes")
            # Only the last part of a name counts, so none can leave the folder.
            names = [PurePosixPath(m.filename.replace("\\", "/")).name for m in members]
            wanted = [n for n in names if PurePosixPath(n).suffix.lower() not in _PARTS]
            if len(wanted) != 1 or len(set(names)) != len(names):
                raise UnsupportedFormat(
                    f"the ZIP archive holds {len(wanted)} recordings; give the files of one: .vhdr, .eeg and .vmrk, or "
                    ".set and .fdt, or a file with the .json that describes it",
                    code="no_recording",
                )
            for member, name in zip(members, names, strict=True):
                with archive.open(member) as part, (folder / name).open("wb") as target:
                    while block := part.read(1 << 20):
                        target.write(block)
    except DAMAGE as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("the ZIP archive is damaged or encrypted", code="damaged") from None
    return folder / wanted[0]


def _is_hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts
