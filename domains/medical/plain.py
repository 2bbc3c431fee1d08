"""Images as JSON: rows of numbers, and what a file's header would say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from domains.medical.formats.dicom import MODALITIES
from domains.medical.formats.limits import Limits
from domains.medical.image import MedicalImage
from hub.errors import InvalidInput

FORM = (
    'rows of a grey picture between 0 and 1, {"rows": [[0.0, 0.5, ...], ...]}; with "modality": "CT" (values in HU), '
    '"MR" and so on any values; a volume as slices of rows from foot to head, {"slices": [[[...], ...], ...], '
    '"modality": "MR", "spacing_mm": [3, 1, 1]}, spacing between slices, rows and columns'
)
_FIELDS = {"rows", "slices", "modality", "spacing_mm"}


def parse_plain(value: Any, limits: Limits) -> MedicalImage:
    """Return the image of a mapping with ``rows`` or ``slices``, and maybe ``modality`` and ``spacing_mm``.

    Raises:
        TooLarge: It is larger than the limits allow.
        InvalidInput: It has another form.
    """
    if not isinstance(value, Mapping) or not set(value) <= _FIELDS or len({"rows", "slices"} & set(value)) != 1:
        raise InvalidInput(f"expected {FORM}", code="bad_form")
    name, dimensions = ("rows", 2) if "rows" in value else ("slices", 3)
    try:
        with np.errstate(over="ignore"):
            values = np.array(value[name], dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise InvalidInput(f"'{name}' must hold numbers only, in rows of one length", code="bad_form") from None
    if values.ndim != dimensions:
        raise InvalidInput(f"'{name}' has {values.ndim} dimensions; it must have {dimensions}", code="bad_form")
    values = values.reshape(1, -1, *values.shape[-2:]) if values.size else values.reshape(1, *([0] * 3))
    limits.check_shape(*values.shape)  # type: ignore[arg-type]
    modality = value.get("modality", "")
    if modality != "" and (not isinstance(modality, str) or modality not in MODALITIES):
        raise InvalidInput("'modality' must be a code of DICOM such as CT, MR, US or CR", code="bad_form")
    if not modality and not (values.min() >= 0 and values.max() <= 1):
        raise InvalidInput(
            f"'{name}' must be between 0 and 1 for a picture; with a 'modality' they may be any numbers",
            code="bad_scale",
        )
    return MedicalImage(values, None, _spacing(value.get("spacing_mm"), dimensions), modality)


def _spacing(value: Any, dimensions: int) -> tuple[float, float, float] | None:
    if value is None:
        return None
    try:
        numbers = np.array(value, np.float64)
    except (ValueError, TypeError):
        numbers = np.array([])
    if numbers.shape != (dimensions,) or not (np.isfinite(numbers) & (numbers > 0)).all():
        raise InvalidInput(f"'spacing_mm' must hold {dimensions} positive numbers", code="bad_form")
    return tuple(([1.0] * (3 - dimensions)) + numbers.tolist())  # type: ignore[return-value]
