"""``name: 1 2 3`` on each line; every line is one sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hub.errors import InvalidInput, TooLarge, UnsupportedFormat
from hub.reading import Reader, Sample, Source, Span


@dataclass
class NumberReader(Reader):
    """Reads lines of numbers."""

    max_numbers: int = 10_000
    plain_form: ClassVar[str] = 'a list in an object: {"numbers": [1, 2, 3]}'

    def read(self, source: Source, span: Span | None = None) -> Iterator[Sample]:
        if span is not None:
            raise InvalidInput("sequences have no time axis", code="no_time_axis")
        with source.open() as stream:
            for line in stream.read().split(b"\n"):
                if not line.strip():
                    continue
                name, colon, rest = line.partition(b":")
                try:
                    if not colon:
                        raise ValueError
                    values = [float(v) for v in rest.split()]
                except ValueError:
                    raise UnsupportedFormat("a line is not 'name: numbers'") from None
                key = name.decode("ascii", "replace").strip()
                try:
                    yield self._sample(values, key)
                except InvalidInput as error:
                    yield Sample(None, key, error=error)

    def parse(self, value: Any, name: str = "input") -> Iterator[Sample]:
        if not isinstance(value, dict) or not isinstance(value.get("numbers"), list):
            raise InvalidInput(f"expected {self.plain_form}")
        try:
            numbers = [float(v) for v in value["numbers"]]
        except (TypeError, ValueError):
            raise InvalidInput("numbers holds something that is no number", source=name) from None
        yield self._sample(numbers, "")

    def _sample(self, values: list[float], key: str) -> Sample:
        if not values:
            raise InvalidInput("a sequence is empty", code="empty")
        if len(values) > self.max_numbers:
            raise TooLarge(f"a sequence has {len(values)} numbers; at most {self.max_numbers} are read")
        if not all(map(math.isfinite, values)):
            raise InvalidInput("a number is not finite", code="not_finite")
        return Sample(np.array(values, np.float32), key, metadata={"length": len(values)})
