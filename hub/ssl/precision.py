"""Objectives compute in float32 whatever precision the encoder runs in."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, with half-precision tensor arguments promoted to float32.

    Softmax with a temperature, logarithms, Sinkhorn (`exp(1 / 0.05)` overflows float16) and
    eigen-decompositions lose their value in half precision, and under autocast a matrix product
    of float32 inputs would silently run in bfloat16. float64 arguments stay float64, so that
    gradients can be checked against finite differences.

    Args:
        function: a function or method; tensors may be arguments or elements of a list or tuple.

    Returns:
        The wrapped function, with the same signature. Gradients of promoted arguments come back
        in their own dtype.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device_type in _device_types(args, kwargs):
                stack.enter_context(torch.autocast(device_type, enabled=False))
            positional = tuple(_promote(value) for value in args)
            named = {name: _promote(value) for name, value in kwargs.items()}
            return function(*positional, **named)

    return wrapper


def _promote(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if type(value) in (list, tuple):
        return type(value)(_promote(item) for item in value)
    return value


def _device_types(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    found: set[str] = set()
    for value in (*args, *kwargs.values()):
        for item in value if type(value) in (list, tuple) else (value,):
            if isinstance(item, Tensor):
                found.add(item.device.type)
    return sorted(found)
