"""Token ids of header fields: the published vocabulary of 16-bit values, and a small one of (field, value) pairs."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from domains.network.flow import PAYLOAD_TOKENS

PADDING = 0
TCP, UDP, ICMP = 6, 17, 1

_IP = ("IP_hl", "IP_tos", "IP_tl", "IP_flags", "IP_ttl")
_PAYLOAD = tuple(f"payload_{number}" for number in range(PAYLOAD_TOKENS))
FIELDS = {
    TCP: (*_IP, "TCP_flags", "TCP_window", "TCP_seq_high", "TCP_seq_low", "TCP_ack_high", "TCP_ack_low", "TCP_urgent"),
    UDP: (*_IP, "UDP_length"),
    ICMP: (*_IP, "ICMP_type", "ICMP_code"),
}
"""Header fields of a packet in the order of its tokens, by protocol number; payload follows."""
NAMES = tuple(dict.fromkeys(name for fields in FIELDS.values() for name in (*fields, *_PAYLOAD)))
"""All fields, payload included; a field's number is its place here."""

EXACT = 256
"""Values below this have a level each: flags, TTLs, types, one-byte fields."""
STEPS = 16
"""Levels in an octave above it, each 4.4 % wide."""
LEVELS = EXACT + STEPS * 8


class ValueVocabulary:
    """The published vocabulary: a 16-bit value v is token v + 1, whatever field it stands in."""

    values = (1, 65_537)
    """Ids of values: the first, and one past the last."""
    cls_id = 65_537
    mask_id = 65_538
    size = 65_539
    """Rows that an embedding table needs; the published tables have some to spare."""

    def ids(self, packets: NDArray[np.uint16], protocol: int) -> NDArray[np.int64]:
        """Return the ids of the tokens of some packets, ``(packets, tokens)``."""
        return packets.astype(np.int64) + 1


class FieldVocabulary:
    """A token is a header field and the level of its value: exact below 256, logarithmic above.

    8,064 ids instead of 65,536, and a TTL of 64 is no longer the same word as a length of 64.
    """

    values = (1, 1 + len(NAMES) * LEVELS)
    cls_id = values[1]
    mask_id = cls_id + 1
    size = mask_id + 1

    def ids(self, packets: NDArray[np.uint16], protocol: int) -> NDArray[np.int64]:
        """Return the ids of the tokens of some packets, ``(packets, tokens)``, their payload included or not."""
        return 1 + _field_numbers(protocol)[: packets.shape[1]] * LEVELS + levels(packets)


VOCABULARIES: dict[str, ValueVocabulary | FieldVocabulary] = {"values": ValueVocabulary(), "fields": FieldVocabulary()}


def levels(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return the level of each 16-bit value: itself below `EXACT`, then `STEPS` levels an octave, below `LEVELS`."""
    large = np.maximum(values.astype(np.float64), EXACT)
    logarithmic = EXACT + np.floor(STEPS * np.log2(large / EXACT)).astype(np.int64)
    return np.where(values < EXACT, values.astype(np.int64), logarithmic)


@cache
def _field_numbers(protocol: int) -> NDArray[np.int64]:
    return np.array([NAMES.index(name) for name in (*FIELDS[protocol], *_PAYLOAD)], np.int64)
