"""Argument checks shared by the objectives: each says what was wrong and what would be right."""

from torch import Tensor


def check_features(**named: Tensor) -> None:
    """Require matrices `(batch, dim)` of one common shape.

    Args:
        **named: tensors by the name that the caller's user knows them by.

    Raises:
        ValueError: if one is not a matrix, or two differ in shape.
    """
    check_same_shape(**named)
    for name, tensor in named.items():
        if tensor.dim() != 2:
            raise ValueError(f"{name} must have shape (batch, dim), got {tuple(tensor.shape)}")


def check_same_shape(**named: Tensor) -> None:
    """Require tensors of one common shape.

    Args:
        **named: tensors by the name that the caller's user knows them by.

    Raises:
        ValueError: if two differ in shape.
    """
    if len({tensor.shape for tensor in named.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named.items())
        raise ValueError(f"shapes must be equal, got {shapes}")


def check_positive(**named: float) -> None:
    """Require numbers greater than zero.

    Args:
        **named: numbers by the name that the caller's user knows them by.

    Raises:
        ValueError: if one is zero or negative.
    """
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than 0, got {value}")


def check_fraction(**named: float) -> None:
    """Require numbers in [0, 1].

    Args:
        **named: numbers by the name that the caller's user knows them by.

    Raises:
        ValueError: if one lies outside.
    """
    for name, value in named.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")


def check_batch(global_rows: int, purpose: str, minimum: int = 2) -> None:
    """Require enough samples in the global batch.

    Args:
        global_rows: samples over all processes.
        purpose: what they are needed for, as in "a negative".
        minimum: the least number that makes sense.

    Raises:
        ValueError: if there are fewer.
    """
    if global_rows < minimum:
        raise ValueError(f"{purpose} needs a global batch of at least {minimum} samples, got {global_rows}")
