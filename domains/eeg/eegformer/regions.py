"""Where on the scalp a channel lies, by its name in the 10-10 system."""

from __future__ import annotations

import re
from collections.abc import Sequence

ROWS = ("frontal", "central", "posterior")
SIDES = ("left", "midline", "right")
REGIONS = (*(f"{row} {side}" for row in ROWS for side in SIDES), "elsewhere")
"""Nine regions of the scalp, and a tenth for channels whose names tell no place."""

_WORDS = (
    "Fp AFp AF AFF F FFT",
    "FFC FC FCC FT FTT T TTP TP C CCP CP A M",
    "TPP CPP P PPO PO POO O OI I",
)
_ROW_OF = {word: row for row, words in enumerate(_WORDS) for word in words.split()}
_ELECTRODE = re.compile(r"^([A-Za-z]+?)(z|\d+)h?$")


def region_of(channel: str) -> int:
    """Return the index in `REGIONS` of a channel; a bipolar derivation lies where its first electrode does."""
    match = _ELECTRODE.match(channel.split("-")[0].strip())
    if match is None or match[1] not in _ROW_OF:
        return len(REGIONS) - 1
    number = match[2]
    side = 1 if number == "z" else 0 if int(number) % 2 else 2
    return _ROW_OF[match[1]] * len(SIDES) + side


def regions_of(channels: Sequence[str]) -> list[int]:
    """Return `region_of` each channel."""
    return [region_of(channel) for channel in channels]
