"""One flow of a capture: what every sample of this domain holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_BURSTS = 12
"""Bursts of a flow that are kept."""
MAX_PACKETS = 6
"""Packets of a burst that are kept."""
PAYLOAD_TOKENS = 6
"""Tokens at the end of each packet that hold the first 12 bytes of its payload."""
PACKET_TOKENS = {1: 13, 6: 18, 17: 12}
"""Tokens of a packet, those of its payload among them, by IP protocol number: ICMP, TCP, UDP."""


@dataclass(frozen=True)
class Flow:
    """A bidirectional flow, cut to its first 12 bursts of 6 packets, as netFound's stored rows have it.

    A burst is a run of packets of one direction with gaps of at most 10 ms; bursts are ordered by their first packet.

    Attributes:
        burst_tokens: For each burst its packets' header fields and payload one after the other, uint16. A packet has
            ``PACKET_TOKENS[protocol]`` tokens, the last ``PAYLOAD_TOKENS`` of which are payload.
        directions: For each burst, whether it comes from the initiator, bool.
        bytes: For each burst the sum of the IP lengths of its kept packets, uint32.
        iats: For each burst the microseconds since the start of the burst before it in the same direction; 0 for the
            first burst of each direction, uint64.
        counts: For each burst its number of kept packets, uint32.
        protocol: IP protocol number: 1 (ICMP), 6 (TCP) or 17 (UDP).
        duration: Microseconds from the first to the last packet of the whole flow.
        start: Time of the first packet in seconds since 1970; 0 where the input does not say.
        packets: Packets of the whole flow, those cut off included.
        endpoints: (address, port, address, port), the initiator first; in memory only, and ``None`` where unknown.
    """

    burst_tokens: list[NDArray[np.uint16]] = field(repr=False)
    directions: NDArray[np.bool_] = field(repr=False)
    bytes: NDArray[np.uint32] = field(repr=False)
    iats: NDArray[np.uint64] = field(repr=False)
    counts: NDArray[np.uint32] = field(repr=False)
    protocol: int
    duration: int
    start: float = 0.0
    packets: int = 0
    endpoints: tuple[str, int, str, int] | None = field(default=None, repr=False)

    @property
    def packet_tokens(self) -> int:
        """Tokens of one packet, payload included."""
        return PACKET_TOKENS[self.protocol]
