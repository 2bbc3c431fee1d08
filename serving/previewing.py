"""Inputs to pictures. The function is pure: it can be called in any thread or process that has the reader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hub.errors import InvalidInput
from hub.modeling import TaskFile
from hub.reading import Reader, Sample, Source
from serving.errors import InputFailed, InvalidRequest
from serving.inputs import Input

Preview = Callable[..., TaskFile]
"""A domain's ``preview(sample, small=False)``."""

_DRAWING = threading.Lock()
"""Matplotlib is not made for several threads; one picture takes a few tenths of a second."""


@dataclass(frozen=True)
class _Reading:
    """What `Input.samples` needs of an embedder."""

    reader: Reader

    def read(self, source: Source) -> Iterator[Sample]:
        return self.reader.read(source)


def draw(
    reader: Reader, preview: Preview, item: Input, place: str, key: str | None = None, small: bool = False
) -> TaskFile:
    """Return a picture of one sample of an input.

    Args:
        reader: Of the model's domain.
        preview: Of the same domain.
        item: One input of a request.
        place: Where in the request it stands, for messages.
        key: Which sample; the first that can be used when ``None``.
        small: For a list.

    Raises:
        InputFailed: The input or the sample cannot be read, or not be drawn.
        InvalidRequest: There is no sample of this key.
    """
    name = item.filename or place
    try:
        sample = _chosen(item.samples(_Reading(reader), place), key, name)  # type: ignore[arg-type]
        with _DRAWING:
            return preview(sample, small=small)
    except InvalidInput as error:
        raise InputFailed(error.at(name), param=place) from None
    except InvalidRequest:
        raise
    except Exception as error:
        raise InputFailed(error, param=place) from error


def _chosen(samples: Iterator[Sample], key: str | None, name: str) -> Sample:
    first: Sample | None = None
    for sample in samples:
        if sample.key == key or (key is None and sample.error is None):
            return sample.checked(name)
        first = first or sample
    if key is None and first is not None:
        return first.checked(name)
    raise InvalidRequest("the input holds no sample of this key", param="sample", code="sample_not_found")
