"""Inputs to pictures; called where inputs are read, which is in a process of its own."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hub.embedder import Intake
from hub.errors import InvalidInput
from hub.modeling import TaskFile
from hub.reading import Sample
from serving.inputs import Input

DRAW = f"{__name__}:draw"
"""What `Lane.call_reader` calls."""

_DRAWING = threading.Lock()
"""Matplotlib is not made for several threads; one picture takes a few tenths of a second."""


def draw(
    intake: Intake,
    item: Input,
    place: str,
    *,
    preview: str,
    reader: str | None = None,
    key: str | None = None,
    small: bool = False,
) -> TaskFile:
    """Return a picture of one sample of an input.

    Args:
        intake: Of the model.
        item: One input of a request.
        place: Where in the request it stands, for messages.
        preview: ``module:name`` of the domain's ``preview(sample, small=False)``.
        reader: ``module:Name`` of a reader to use in the place of the model's.
        key: Which sample; the first that can be used when ``None``.
        small: For a list.

    Raises:
        InvalidInput: The input or the sample cannot be read, or not be drawn, or there is no sample of this key.
    """
    if reader is not None:
        intake = replace(intake, reader=_imported(reader)())
    sample = _chosen(item.samples(intake, place), key, item.filename or place)
    with _DRAWING:
        return _imported(preview)(sample, small=small)


def _imported(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _chosen(samples: Iterator[Sample], key: str | None, name: str) -> Sample:
    first: Sample | None = None
    for sample in samples:
        if sample.key == key or (key is None and sample.error is None):
            return sample.checked(name)
        first = first or sample
    if key is None and first is not None:
        return first.checked(name)
    raise InvalidInput("it holds no sample of this key", code="sample_not_found")
