from __future__ import annotations

import numpy as np
import pytest

from domains.sar.nereus.processing import NereusProcessor
from domains.sar.reading import RasterReader
from hub.doubts import codes_of

LAND = np.random.default_rng(0).gamma(4.0, 25.0, (64, 64)).astype(np.float32)


def with_gap(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(64) < 16, 0, values)


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        (LAND, ()),
        (with_gap(LAND), ("missing_data",)),
        (np.minimum(LAND, 120), ("clipped",)),
        (10 * np.log10(LAND) - 40, ("scale_assumed",)),
        (np.where(LAND > 200, -9999, LAND), ("missing_data",)),
    ],
    ids=["land", "black border", "saturated", "decibels", "sentinel"],
)
def test_flags_of_an_image(values: np.ndarray, flags: tuple[str, ...]) -> None:
    (sample,) = RasterReader().parse({"amplitude": values.tolist()})
    assert set(sample.flags) == set(flags)


def test_scale_and_size_are_the_processors_doubts() -> None:
    settings = {"mean": -5.0, "std": 5.0, "clip": [-30.0, 10.0]}
    (sample,) = RasterReader().parse({"amplitude": LAND.tolist()})
    for size, reference, flags in (
        (64, "image", ()),
        (64, "absolute", ("scale_assumed",)),
        (224, "image", ("length_out_of_range",)),
    ):
        processor = NereusProcessor(size=size, reference=reference, **settings)
        assert codes_of(processor.doubts(sample)) == flags
