"""Samples to batches: the base class of every domain's processor.

Three steps, because the trainer, the embedder and the server each need them apart: ``cost`` (how much work,
known before any of it is done), ``prepare`` (one sample to features, run in parallel while a model computes)
and ``pad`` (features of several samples to one batch of tensors).
"""

from __future__ import annotations

import hub.stack  # noqa: F401  # before transformers, which would fail somewhere deep

# isort: split

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from hub.doubts import Doubt
from hub.reading import Reader, Sample


class Processor(FeatureExtractionMixin):  # type: ignore[misc]  # transformers is untyped here
    """Samples to a padded, masked batch; saved as ``preprocessor_config.json``.

    Attributes written by a subclass's ``__init__`` are its saved configuration: numbers, strings, lists.
    Derived arrays (windows, filter banks) stay out of it: cache them in a private name dropped by ``to_dict``. Several
    threads prepare with one processor at once.
    """

    cost_unit: ClassVar[str] = "elements"
    """What ``cost`` counts: frames, nodes, tokens, voxels."""

    batch_cost: ClassVar[int] = 16_384
    """Padded cost that one forward should hold on a CPU; callers may override it."""

    joins: ClassVar[bool] = False
    """Whether ``pad`` puts samples side by side, as graphs are, so that none is padded to another's length."""

    @abstractmethod
    def cost(self, sample: Sample) -> int:
        """Return the cost of one sample in ``cost_unit``, at least 1, without preparing it."""

    @abstractmethod
    def prepare(self, sample: Sample) -> Any:
        """Turn one sample to model-ready features, looking at no other sample.

        A sample's embedding must not depend on what else is in its batch, so everything that reads the signal
        happens here, per sample, before padding.

        Raises:
            InvalidInput: The sample is too short, too long, or not usable by this model; the text says why.
        """

    @abstractmethod
    def pad(self, features: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Collate prepared features to one batch, with a mask that marks what is real."""

    def doubts(self, sample: Sample) -> Iterable[Doubt]:
        """Return what speaks against a sample for this model, beside what its reader said.

        A rate, a length, a spacing outside what it was trained on. Sizes and facts are looked at, not the signal, since
        it is asked for every sample.
        """
        return ()

    def examples(self) -> list[Sample]:
        """Return samples that this processor takes, where the domain's sample files are not fit for every model.

        A model of graphs whose nodes have a certain number of features, for example, is warmed up with these.
        """
        return []

    @abstractmethod
    def reader(self) -> Reader:
        """Return the domain's reader, configured as this processor needs it."""

    def as_samples(self, value: Any) -> list[Sample]:
        """Return samples from what a Python user passes: samples, or the domain's plain form."""
        if isinstance(value, Sample):
            return [value]
        if isinstance(value, list | tuple) and value and isinstance(value[0], Sample):
            return list(value)
        return list(self.reader().parse(value))

    def __call__(self, samples: Any, return_tensors: str = "pt") -> BatchFeature:
        """Prepare and pad in one call, for users who drive the model themselves.

        Args:
            samples: One or many `Sample`, or the domain's plain form.
            return_tensors: Only ``"pt"``.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: only 'pt' is offered")
        return BatchFeature(self.pad([self.prepare(s) for s in self.as_samples(samples)]))

    def to_dict(self) -> dict[str, Any]:
        """Return the saved configuration: public attributes only."""
        return {k: v for k, v in super().to_dict().items() if not k.startswith("_")}
