"""What a place where inputs are read offers, whether it is processes or threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from hub.embedder import Intake
from serving.inputs import Input
from serving.readers.stream import Order, Turn
from serving.readers.wire import Types


@dataclass(frozen=True)
class Readable:
    """A model's reader and processor, as a pool knows them.

    Attributes:
        number: Of the model, in this pool.
        types: What answers about it may hold.
    """

    number: int
    types: Types


class Stream(ABC):
    """Some inputs of one request on their way to prepared samples."""

    @abstractmethod
    async def turn(self) -> Turn:
        """Read for a few milliseconds.

        Raises:
            InputFailed: An input cannot be read or prepared; it says which.
            Unavailable: Nothing can be read now.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it, at its end or before; a turn at hand ends soon."""


class Pool(ABC):
    """Where inputs are read. Used on one event loop.

    Attributes:
        width: How many streams a request is dealt to.
        threads: For other work that must not stop the event loop.
    """

    width: int
    threads: Executor

    @abstractmethod
    def start(self) -> None:
        """Prepare for the first model, while it is being loaded; it can be called again."""

    @abstractmethod
    async def add(self, intake: Intake, packages: Collection[str]) -> Readable:
        """Make a model's reader and processor known.

        Args:
            intake: The two.
            packages: Of the domain: what they make may be of these packages' types.

        Raises:
            InvalidSettings: They cannot be used where inputs are read.
        """

    @abstractmethod
    def remove(self, model: Readable) -> None:
        """Forget them."""

    @abstractmethod
    def stream(self, model: Readable, order: Order) -> Stream:
        """Return a stream of what is to be read."""

    @abstractmethod
    async def call(self, function: str, model: Readable, item: Input, place: str, **options: Any) -> Any:
        """Return what a function makes of an input, under the same caps.

        Args:
            function: ``module:name``, called as ``(intake, item, place, **options)``; it returns plain values, arrays
                or a `TaskFile`.
            model: Whose reader to use.
            item: The input.
            place: Where in the request it stands, for messages.
            options: Plain values.

        Raises:
            InputFailed: It cannot be read, or the function refuses it; ``cause`` says why.
            Unavailable: Nothing can be read now.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise Unavailable when nothing can be read any more; for health checks."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""
