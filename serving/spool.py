"""Files that the server keeps for a moment: large uploads, and what readers unpack. In a private folder, removed after.

Each process has a folder of its own and holds a lock in it, so that what a killed process left can be told from what a
running one needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

from serving.config import ServiceSettings
from serving.errors import InvalidSettings, Overloaded, SpoolFull

PREFIX = "fmhub-scratch-"
_LOCK = "lock"


class Scratch:
    """A private folder, made when it is first needed."""

    def __init__(self, root: Path | None) -> None:
        """Prepare; nothing is made yet.

        Args:
            root: Where; the system's temporary folder unless given.
        """
        self._root = root or Path(tempfile.gettempdir())
        self._making = threading.Lock()
        self._folder: Path | None = None
        self._remove: weakref.finalize | None = None

    @property
    def folder(self) -> Path:
        """The folder, readable by its owner alone.

        Raises:
            OSError: It cannot be made.
        """
        with self._making:
            if self._folder is None:
                _remove_left(self._root)
                self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._root))
                lock = _locked(self._folder)
                self._remove = weakref.finalize(self, _remove, self._folder, lock)
            return self._folder

    def check(self) -> None:
        """Make the folder.

        Raises:
            InvalidSettings: It cannot be made.
        """
        try:
            _ = self.folder
        except OSError as error:
            raise InvalidSettings(f"spool_dir: no folder can be made in {self._root} ({error.strerror})") from None

    def subfolder(self, prefix: str) -> Path:
        """Return a new folder in it.

        Raises:
            OSError: It cannot be made.
        """
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))

    def close(self) -> None:
        """Remove it with all that is in it."""
        if self._remove is not None:
            self._remove()


class Spool:
    """Large uploads on their way to a reader, bounded in bytes."""

    def __init__(self, settings: ServiceSettings, scratch: Scratch) -> None:
        """Start with none.

        Args:
            settings: The bounds.
            scratch: Where they lie.
        """
        self.threshold = settings.spool_threshold
        self.held = 0
        self._most = settings.max_spool_bytes
        self._scratch = scratch

    def take(self, size: int) -> None:
        """Count bytes that are to be written.

        Raises:
            Overloaded: There are too many.
        """
        if self.held + size > self._most:
            raise Overloaded("the uploads in work hold too many bytes on disk; try again later", retry_after=1)
        self.held += size

    def new_file(self) -> SpooledFile:
        """Return a new file, to be written in any thread.

        Raises:
            SpoolFull: It cannot be made.
        """
        try:
            # A folder for each: readers look for files that belong to one by their names.
            return SpooledFile(self, self._scratch.subfolder("upload-"))
        except OSError:
            raise SpoolFull from None


class SpooledFile:
    """One upload on disk.

    Attributes:
        path: Where it lies.
        size: Bytes counted for it.
    """

    def __init__(self, spool: Spool, folder: Path) -> None:
        """Open it for writing; see `Spool.new_file`."""
        self.path = folder / "upload"
        self.size = 0
        self._spool = spool
        created = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._stream: BinaryIO | None = os.fdopen(created, "wb")

    def write(self, content: bytes) -> None:
        """Append bytes that `Spool.take` has counted.

        Raises:
            SpoolFull: They cannot be written.
        """
        try:
            self._append(content)
        except OSError:
            raise SpoolFull from None

    def _append(self, content: bytes) -> None:
        if self._stream is not None:
            self._stream.write(content)
            self._stream.flush()

    def finish(self) -> None:
        """Write no more."""
        if self._stream is not None:
            # What could not be written was reported by `write` already.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None

    def remove(self) -> None:
        """Remove it; a second call does nothing."""
        self.finish()
        self._spool.held -= self.size
        self.size = 0
        shutil.rmtree(self.path.parent, ignore_errors=True)


def _locked(folder: Path) -> int:
    """Return the descriptor of a lock in a folder, held until this process ends."""
    # Named only once it is held: another process takes a lock that nobody holds for one that was left behind.
    nameless = folder / f"{_LOCK}-{os.getpid()}"
    lock = os.open(nameless, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    nameless.rename(folder / _LOCK)
    return lock


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.close(lock)


def _remove_left(root: Path) -> None:
    """Remove the folders of processes that ended without doing so."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            # Not somebody else's, and not what a link points to.
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
