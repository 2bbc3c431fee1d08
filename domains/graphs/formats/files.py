"""Sets of files that make up one input: a folder's, or an archive's, checked before anything is unpacked."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from domains.graphs.limits import GraphLimits
from hub.archives import DAMAGE, check_members
from hub.errors import InvalidInput, TooLarge

Members = Mapping[str, Callable[[], bytes]]
"""File name, without folder, to a function that returns its content."""
MAX_MEMBERS = 10_000


def folder_members(folder: Path, limits: GraphLimits, prefix: str = "") -> Members:
    """Return the files of a folder whose names start with ``prefix``; read when asked for."""

    def read(path: Path) -> bytes:
        if path.stat().st_size > limits.max_bytes:
            raise TooLarge(f"{path.name} has {path.stat().st_size:,} bytes; at most {limits.max_bytes:,} are read")
        return path.read_bytes()

    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.startswith(prefix))
    return {p.name: lambda p=p: read(p) for p in files}


def open_archive(stream: BinaryIO, limits: GraphLimits) -> zipfile.ZipFile:
    """Open a ZIP archive whose directory promises no harm.

    Raises:
        InvalidInput: It is damaged, encrypted, or has a member outside its own folder.
        TooLarge: It would unpack to more than the limits allow.
    """
    try:
        archive = zipfile.ZipFile(stream)
    except DAMAGE:
        raise InvalidInput("the ZIP archive is damaged", code="damaged") from None
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise TooLarge(f"the archive has {len(entries):,} members; at most {MAX_MEMBERS:,} are read")
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
            raise InvalidInput("a member of the archive has a path that leaves its folder", code="unsafe_archive")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InvalidInput("the archive holds a link; send plain files", code="unsafe_archive")
    check_members(entries)
    unpacked = sum(e.file_size for e in entries)
    packed = max(sum(e.compress_size for e in entries), 1)
    if unpacked > limits.max_bytes or unpacked > limits.max_expansion * packed:
        raise TooLarge(
            f"the archive unpacks to {unpacked:,} bytes, {unpacked // packed} times its size; at most "
            f"{limits.max_bytes:,} bytes and {limits.max_expansion} times are read"
        )
    return archive


def archive_members(archive: zipfile.ZipFile) -> Members:
    """Return the files of an opened archive by their bare names; read when asked for."""

    def read(entry: zipfile.ZipInfo) -> bytes:
        try:
            with archive.open(entry) as stream:
                # One byte more than announced would be a lie of the directory that was checked.
                content = stream.read(entry.file_size + 1)
        except DAMAGE:
            raise InvalidInput("a member of the ZIP archive is damaged", code="damaged") from None
        if len(content) > entry.file_size:
            raise TooLarge("a member of the archive is larger than announced")
        return content

    entries = [e for e in archive.infolist() if not e.is_dir() and "__MACOSX" not in e.filename]
    return {e.filename.replace("\\", "/").rsplit("/", 1)[-1]: lambda e=e: read(e) for e in entries}
