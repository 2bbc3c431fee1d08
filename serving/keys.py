"""Bearer keys: made here, kept as hashes, found in constant time, reloaded when their file changes.

A key is 32 random bytes, so one round of SHA-256 is enough at rest: there is nothing to guess, and no slow password
hash has to be computed for each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from pathlib import Path

import yaml

from serving.config import KeySettings, ServiceSettings, distinct_keys, settings_of
from serving.errors import InvalidSettings

logger = logging.getLogger("fmhub.serving")

PREFIX = "fm_"
"""Lets secret scanners recognise a key that was committed somewhere."""


def new_key() -> str:
    """Return a fresh key: 256 bits of the operating system's randomness."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return how a key is written in the settings."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class KeyRing:
    """The keys that are valid now: those of the settings, and those of ``keys_file`` as it is now."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Read all keys.

        Raises:
            InvalidSettings: The file is missing or damaged, or a name or hash stands in it twice.
        """
        self.settings = settings
        self._fixed = settings.keys
        self._file = settings.keys_file
        self._version: object = None
        self._entries: list[KeySettings] = self._fixed
        if self._file is not None:
            self._version = _version(self._file)
            self._entries = self._read(self._file)

    @property
    def open(self) -> bool:
        """Whether no access rule is configured. An empty ``keys_file`` is a rule: it lets nobody in."""
        return not self._fixed and self._file is None

    def find(self, token: str) -> KeySettings | None:
        """Return the entry of a key, or ``None``; it takes as long for a wrong key as for a right one."""
        self._refresh()
        digest = hash_of(token)
        found = None
        # All entries are compared to their end, so that the time tells nothing of where the first difference is.
        for entry in self._entries:
            if hmac.compare_digest(entry.hash, digest):
                found = entry
        return found

    def _refresh(self) -> None:
        if self._file is None or (version := _version(self._file)) == self._version:
            return
        # Once for each version of the file, or a damaged one would fill the log.
        self._version = version
        try:
            self._entries = self._read(self._file)
        except InvalidSettings as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("keys reloaded: %d are valid", len(self._entries))

    def _read(self, file: Path) -> list[KeySettings]:
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidSettings(f"keys_file {file}: {error.strerror or 'cannot be read'}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            # The parser's message would quote the file.
            raise InvalidSettings(f"keys_file {file} is not YAML") from None
        if not isinstance(values, list | None):
            raise InvalidSettings(f"keys_file {file} should hold a list of keys, each with 'name' and 'hash'")
        listed = [settings_of(KeySettings, v, f"{file.name}[{i}]") for i, v in enumerate(values or [])]
        try:
            return distinct_keys([*self._fixed, *listed])
        except ValueError as error:
            raise InvalidSettings(f"keys_file {file}: {error}") from None


def _version(file: Path) -> object:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
