"""Curation by a mapping of options, as a recipe or a command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Protocol

from numpy.typing import ArrayLike

from hub.curation.balanced import Balanced
from hub.curation.duplicates import Duplicates
from hub.curation.prototype import Prototype
from hub.curation.selection import Rows, Selection
from hub.curation.target import Target
from hub.errors import InvalidRecipe


class Strategy(Protocol):
    """A dataclass of options that selects rows of an embedding matrix."""

    def __call__(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Return what is kept, and why."""


STRATEGIES: Mapping[str, type[Any]] = {
    "prototype": Prototype,
    "duplicates": Duplicates,
    "balanced": Balanced,
    "target": Target,
}
"""What ``by`` may be. The options of each are its fields."""


class Curator:
    """One way of choosing samples by their embeddings.

    ``Curator({"by": "balanced", "keep": 0.3, "levels": [100, 10]}).select(vectors, seed=0)``

    Attributes:
        strategy: The strategy with its options.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check the options.

        Args:
            options: ``by``, a key of `STRATEGIES`, and fields of that strategy.

        Raises:
            InvalidRecipe: ``by`` or an option is unknown, or has a value that cannot be.
        """
        by = options.get("by")
        if not isinstance(by, str) or by not in STRATEGIES:
            raise InvalidRecipe(f"curation.by is {by!r}; it is one of {', '.join(STRATEGIES)}")
        kinds = {field.name: str(field.type) for field in dataclasses.fields(STRATEGIES[by])}
        given = {name: value for name, value in options.items() if name != "by"}
        for name in given:
            if name not in kinds:
                raise InvalidRecipe(f"curation by {by} has no option {name!r}; it has {', '.join(kinds)}")
        self.strategy: Strategy = STRATEGIES[by](**{name: _typed(name, given[name], kinds[name]) for name in given})

    def select(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Rows:
        """Return the row numbers to keep, ascending; the same for the same vectors, options and seed.

        Args:
            vectors: ``(rows, dimension)`` embeddings.
            seed: Of clustering and draws. A loop that selects again and again gives each time another.
            target: ``(targets, dimension)`` embeddings of a target set; only ``by: target`` takes one.

        Raises:
            InvalidInput: A matrix is empty or not finite.
            InvalidRecipe: The options do not fit so many rows, or a target set is missing or not asked for.
        """
        return self.explain(vectors, seed, target).kept

    def explain(self, vectors: ArrayLike, seed: int, target: ArrayLike | None = None) -> Selection:
        """Return what `select` keeps, with the score and the cluster of every row, and why the others were left out."""
        if target is not None and not isinstance(self.strategy, Target):
            raise InvalidRecipe("a target set is for curation by target alone")
        return self.strategy(vectors, seed, target)


def _typed(name: str, value: Any, kind: str) -> Any:
    if kind == "float" and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        return tuple(_typed(name, entry, "int") for entry in value)
    wanted = {"float": "a number", "int": "a whole number", "str": "a word"}.get(kind, "a list of whole numbers")
    raise InvalidRecipe(f"curation.{name} is {value!r}; it must be {wanted}")
