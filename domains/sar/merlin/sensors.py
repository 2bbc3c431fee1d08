"""The published models' constants, which are not in their files: M, m, input, and the amplitudes that suit them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sensor:
    """What a published network has to be used with.

    Attributes:
        title: What it was trained on.
        log_maximum: M.
        log_minimum: m.
        min_rms: Smallest root mean square amplitude at which it was measured to work, digital numbers.
        max_rms: Largest.
        input: ``complex`` or ``amplitude``.
    """

    title: str
    log_maximum: float = 10.089038980848645
    log_minimum: float = -1.429329123112601
    min_rms: float = 50.0
    max_rms: float = 1_000.0
    input: str = "complex"


SENSORS: Mapping[str, Sensor] = {
    "spotlight": Sensor("TerraSAR-X spotlight"),
    "stripmap": Sensor("TerraSAR-X stripmap"),
    # m has a plus sign in the published code, and is right: with others the output is off by factors of 30 and more.
    "sentinel_tops": Sensor("Sentinel-1 TOPS", 12.385, -math.log(0.001), max_rms=500.0),
    "sar2sar": Sensor("Sentinel-1 detected images (SAR2SAR)", input="amplitude"),
}
