"""Channel names in the wild to those of the 10-05 system, and what kind of signal a name stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import product

from hub.doubts import Doubt
from hub.errors import InvalidInput

_REGIONS = (
    "Fp AFp AF AFF F FFT FFC FT FC FTT FCC T C TTP CCP TP CP TPP CPP P PPO PO POO O OI I".split()
)  # fmt: skip
ELECTRODES = {
    name.upper(): name
    for region, place, half in product(_REGIONS, ("z", *map(str, range(1, 11))), ("", "h"))
    for name in [f"{region}{place}{half}"]
} | {name.upper(): name for name in ("A1", "A2", "M1", "M2", "Nz", "Fpz")}
"""Names of the 10-05 system (Oostenveld and Praamstra 2001) by their upper case, and ears and mastoids."""
ELECTRODES |= {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}  # the names of the older 10-20 system

_PREFIX = re.compile(r"^(?:EEG|POL|RAW|SEEG)[\s._:-]+", re.IGNORECASE)
# Each run of separators is looked at once: from its start, and as a whole. A hostile name may be a megabyte of them.
_REFERENCE = re.compile(r"(?<![\s._-])[\s._-]++(?:REF|LE|AR|AVG|AV|CAR|CLE|LER|REFERENCE)$", re.IGNORECASE)
_KINDS = {
    kind: re.compile(pattern, re.IGNORECASE)
    for kind, pattern in {
        "eog": r"\b[HV]?EOG|^(?:LOC|ROC)\b|\beye\b",
        "emg": r"EMG\b|\bchin\b|\bsubm",
        "ecg": r"E[CK]G",
        "misc": (
            r"^(?:STI\b|STI ?\d|status|trigger|marker|event|annotation|counter|battery|sample|packet|interpolated|CQ_|"
            r"DC\d|accel|acc[ _.-]?[xyz]|gyro|gyr[ _.-]|mag[ _.-]|other\b|analog|digital|timestamp|heart|HR\b|"
            r"photic|IBI\b|bursts|suppr|pulse|PR\b|SaO2|SpO2|OSAT|resp|flow|nasal|thor|abd|chest|snore|"
            r"pos(?:ition)?\b|temp|rectal|light|GSR|EDA\b|PPG|pleth)"
        ),
    }.items()
}


def canonical(name: str) -> str:
    """Return the electrode or derivation that a name means, in the 10-05 system's spelling.

    ``EEG FP1-REF``, ``Fp1.`` and ``RAW_FP1`` are ``Fp1``; ``T3`` is ``T7``; ``FP1-F7`` is the derivation ``Fp1-F7``. A
    name that means no electrode is returned as it is, without the space around it.
    """
    bare = _PREFIX.sub("", name.strip().replace("\x00", ""))
    bare = _REFERENCE.sub("", bare.strip(" .")).strip(" .")
    if (found := _electrode(bare)) is not None:
        return found
    parts = [_electrode(part.strip(" .")) for part in bare.split("-")]
    if len(parts) == 2 and parts[0] is not None and parts[1] is not None:
        return f"{parts[0]}-{parts[1]}"
    return name.strip()


def is_electrode(name: str) -> bool:
    """Tell whether a canonical name is one of the 10-05 system, or a derivation of two."""
    return all(_electrode(part) == part for part in name.split("-", 1))


def kind_of(name: str) -> str:
    """Return what a channel records by its name: ``eeg``, ``eog``, ``emg``, ``ecg`` or ``misc``.

    A name that says nothing (``CH1``, ``Right AUX``) counts as EEG.
    """
    if is_electrode(canonical(name)):
        return "eeg"
    bare = _PREFIX.sub("", name.strip())
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(bare)), "eeg")


def choose(names: Sequence[str], voltage: Sequence[bool], keep_all: bool) -> tuple[list[int], list[str]]:
    """Return the rows that are EEG, and a note on what is left out.

    Args:
        names: As the file has them.
        voltage: Whether a channel can be EEG by its unit; what is measured in others (``%``, degrees) cannot.
        keep_all: Take every channel that can be EEG by its unit.

    Raises:
        InvalidInput: None is EEG.
    """
    kinds = [kind_of(name) if volts else "misc" for name, volts in zip(names, voltage, strict=True)]
    rows = [i for i, kind in enumerate(kinds) if kind == "eeg" or (keep_all and voltage[i])]
    left = Counter(kind.upper() if kind != "misc" else "other" for i, kind in enumerate(kinds) if i not in set(rows))
    described = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items()))
    if not rows:
        raise InvalidInput(f"none of the {len(names)} channels is EEG ({described or 'there is none'})", code="no_eeg")
    return rows, [Doubt(f"Channels that are no EEG were left out: {described}.", "dropped_part")] if left else []


def shown(names: Sequence[str], row: int) -> str:
    """Return what to call a channel in a message: by number where its name may be anything, a person's included."""
    return names[row] if is_electrode(names[row]) else f"channel {row + 1}"


def _electrode(name: str) -> str | None:
    return ELECTRODES.get(name.upper())
