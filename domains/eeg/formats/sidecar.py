"""What arrays and tables do not say themselves: rate, channel names and unit, from a JSON file beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domains.eeg.formats.common import volts_per
from hub.doubts import Doubt
from hub.errors import InvalidInput
from hub.reading import Source

FOR_FOLDER = "eeg.json"
HOW_TO_SAY = (
    f"say it in a file of the same name that ends in .json, or in {FOR_FOLDER} for all files of a folder: "
    '{"SamplingFrequency": 256, "channels": ["Fp1", "Fp2"], "unit": "uV"}'
)
_RATE = ("SamplingFrequency", "sampling_rate", "sfreq")
_NAMES = ("channels", "ch_names")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Stated:
    """What was said about a signal; ``None`` where nothing was.

    Attributes:
        sampling_rate: Hz.
        channels: Names, one a row.
        unit: Of the values.
        assumed_rate: Hz, where nothing says; ``None`` refuses instead.
    """

    sampling_rate: float | None = None
    channels: list[str] | None = None
    unit: str | None = None
    assumed_rate: float | None = None

    @property
    def volts(self) -> float:
        """Volts in one unit; microvolts unless something else was said."""
        return volts_per(self.unit or "uV") or 1e-6

    def rate(self, in_file: float | None = None) -> tuple[float, list[str]]:
        """Return the sampling rate in Hz, and a warning where it is a guess.

        Args:
            in_file: What the file itself says; what was said about it goes before.

        Raises:
            InvalidInput: Nothing says it, and nothing may be assumed.
        """
        if (known := self.sampling_rate or in_file) is not None:
            return known, []
        if self.assumed_rate is None:
            raise InvalidInput(f"nothing says the sampling rate; {HOW_TO_SAY}", code="no_sampling_rate")
        text = (
            f"Nothing says the sampling rate: {self.assumed_rate:g} Hz is assumed, and every frequency is wrong if it "
            f"is another. To be sure, {HOW_TO_SAY}."
        )
        return self.assumed_rate, [Doubt(text, "rate_assumed")]


def read_sidecar(source: Source) -> Stated:
    """Return what the JSON file beside a file says about it; of nothing, where there is none.

    ``NAME.json`` beside ``NAME.csv`` goes before ``eeg.json`` in its folder and in the one above, as in BIDS, whose
    ``SamplingFrequency`` is understood. Other keys are left alone.

    Raises:
        InvalidInput: It is no JSON object, or says something that cannot be.
    """
    if source.path is None:
        return Stated()
    folder = source.path.parent
    for path in (source.path.with_suffix(".json"), folder / FOR_FOLDER, folder.parent / FOR_FOLDER):
        if path.is_file():
            return _read(path)
    return Stated()


def parse_stated(value: Mapping[str, Any], where: str = "") -> Stated:
    """Check rate, names and unit of a JSON object.

    Args:
        value: Its other keys are left alone.
        where: What messages call it, with a space at its end.

    Raises:
        InvalidInput: One of them cannot be.
    """
    rate = next((value[key] for key in _RATE if value.get(key) is not None), None)
    names = next((value[key] for key in _NAMES if value.get(key) is not None), None)
    unit = value.get("unit")
    problems = []
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e9):
        problems.append("the sampling rate must be a number of Hz above 0")
    if names is not None and not (
        isinstance(names, list) and names and all(isinstance(n, str) and n.strip() for n in names)
    ):
        problems.append("the channels must be a list of names, one a row of the signal")
    if unit is not None and (not isinstance(unit, str) or volts_per(unit) is None):
        problems.append("the unit must be one of V, mV, uV, nV")
    if problems:
        raise InvalidInput(where + "; ".join(problems), code="bad_form")
    return Stated(None if rate is None else float(rate), names, unit)


def _read(path: Path) -> Stated:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(value, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path.name} beside it is no JSON object", code="bad_sidecar") from None
    return parse_stated(value, f"in {path.name} beside it: ")
