"""Models in narrower numbers or compiled, with what that costs in exactness measured before they serve."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hub.embedder import Embedder
from serving.config import ModelSettings
from serving.errors import InvalidSettings


@dataclass(frozen=True)
class NumericError:
    """How far an embedding is from the float32 one, on the sample that the model is warmed up with.

    Attributes:
        largest_difference: Of any number of the embedding.
        largest_value: Of any number of the float32 embedding, to hold the difference against.
        cosine: Between the two.
    """

    largest_difference: float
    largest_value: float
    cosine: float

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return asdict(self)


def load_as_set(factory: Callable[..., Embedder], settings: ModelSettings) -> tuple[Embedder, NumericError | None]:
    """Load a model as its settings say; where that is not plain float32, also measure the error.

    Args:
        factory: Called as `hub.from_pretrained` is.
        settings: Of the model.

    Returns:
        The embedder, and its error; ``None`` for plain float32.

    Raises:
        InvalidSettings: The model cannot compute in this way.
        HubError: It cannot be loaded at all.
    """

    def load(dtype: str) -> Embedder:
        return factory(settings.name, revision=settings.revision, device=settings.device, dtype=dtype)

    # Eight-bit weights are made of float32 ones; everything else stays float32 there.
    embedder = load("float32" if settings.dtype == "int8" else settings.dtype)
    if settings.dtype == "float32" and not settings.compile:
        return embedder, None
    with _warm_up_input(embedder) as value:
        exact = settings.dtype in ("float32", "int8")
        reference = _vector(embedder if exact else load("float32"), value)
        if settings.dtype == "int8":
            to_int8(embedder.model)
        if settings.compile:
            # Lengths differ from batch to batch: without dynamic shapes each would be compiled anew.
            embedder.model.compile(dynamic=True)
        try:
            found = _vector(embedder, value)
        except Exception as error:
            how = f"dtype {settings.dtype}" + (" and compile" if settings.compile else "")
            raise InvalidSettings(f"{settings.id} cannot run with {how}: {type(error).__name__}: {error}") from error
    if not np.isfinite(found).all():
        raise InvalidSettings(f"{settings.id} overflows with dtype {settings.dtype}; choose float32 or bfloat16")
    return embedder, _error(found, reference)


def _error(found: np.ndarray, reference: np.ndarray) -> NumericError:
    a, b = found.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return NumericError(
        float(np.abs(a - b).max()), float(np.abs(b).max()), float(a @ b / lengths) if lengths else float(not a.any())
    )


def _vector(embedder: Embedder, value: Any) -> np.ndarray:
    return np.asarray(embedder.embed(value).vectors[0])


@contextmanager
def _warm_up_input(embedder: Embedder) -> Iterator[Any]:
    """Give what the embedder is warmed up with: an example of its processor, or a sample file of its domain."""
    if examples := embedder.processor.examples():
        yield examples[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        yield embedder.system.domain.load("samples")(Path(folder))[0]


def to_int8(model: nn.Module) -> None:
    """Replace a model's linear layers on the CPU by ones with eight-bit weights.

    Raises:
        InvalidSettings: It is on another device, or has no linear layer.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        # Not its subclasses: they are there because something reaches into them.
        if type(child) is nn.Linear
    ]
    if not found:
        raise InvalidSettings("dtype int8: the model has no linear layer to make smaller")
    if any(child.weight.device.type != "cpu" for _, _, child in found):
        raise InvalidSettings("dtype int8 is for models on the CPU; choose bfloat16 on others")
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child))


class Int8Linear(nn.Module):
    """A linear layer whose weights are eight-bit integers, one scale an output; inputs are rounded row by row.

    Dynamic quantisation, symmetric: ``y = (round(x / a) @ round(W / s).T) * a * s + bias`` with ``a = max|x| / 127`` of
    a row of x and ``s = max|W| / 127`` of a row of W. A row's result depends on that row alone, so batching changes
    nothing.
    """

    values: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Round the weights of a float32 layer.

        Args:
            linear: To replace.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("values", (weight / scale[:, None]).round().to(torch.int8))
        # A parameter, because a model asks its parameters which dtype its inputs should have.
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """The weights as float32, for code that uses a layer's weights in a way of its own."""
        return self.values.float() * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out_features)`` of ``(..., in_features)``."""
        rows = x.reshape(-1, self.in_features)
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        # Exact in 32-bit integers.
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.values.t())
        y = product.to(x.dtype) * scale * self.scale
        return (y if self.bias is None else y + self.bias).reshape(*x.shape[:-1], self.out_features)
