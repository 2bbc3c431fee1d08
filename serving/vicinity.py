"""The neighbourhood of a request's samples: views beside each on the way to the model, folded to figures after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hub.embedder import Embedder
from hub.errors import InvalidCheckpoint, UnsupportedOption
from hub.neighbourhood import VIEWS, Neighbourhood, find_neighbourhood
from serving.jobs import Output, Refused, Work, resolve_work


@dataclass(frozen=True)
class Vicinity:
    """Judges the samples of one request.

    Attributes:
        reference: Of the model.
        views: Changed copies that follow each sample.
    """

    reference: Neighbourhood
    views: int = 0

    @property
    def cached_as(self) -> bytes:
        """What stands before the key of a result that holds these figures."""
        return b"neighbourhood %d " % self.views

    def fold(self, outputs: Sequence[Output | Refused]) -> list[Output | Refused]:
        """Return an input's outputs without the views that follow each sample, the figures in their place."""
        found: list[Output | Refused] = []
        rest = iter(outputs)
        for output in rest:
            if isinstance(output, Output):
                seen = [next(rest) for _ in range(self.views)]
                vectors = [output.value, *(view.value for view in seen if isinstance(view, Output))]
                output = replace(output, neighbourhood=self.reference.judge(vectors))
            found.append(output)
        return found


def reference_of(embedder: Embedder) -> Neighbourhood:
    """Return a model's reference set; called in a thread, for it reads and hashes files.

    Raises:
        UnsupportedOption: The model comes without a usable reference set.
    """
    try:
        return find_neighbourhood(embedder)
    except InvalidCheckpoint:
        # The reason names folders of this machine.
        raise UnsupportedOption(
            "the model's reference set is damaged or of other weights; make it anew: fmhub neighbourhood",
            param="sanity",
            code="no_neighbourhood",
        ) from None


def views_for(sanity: str | None) -> int | None:
    """Return how many views of each sample a request's ``sanity`` asks for; ``None`` where it asks for no figures."""
    return {"neighbourhood": 0, "stability": VIEWS}.get(sanity or "")


def check_views(embedder: Embedder, views: int) -> None:
    """Raise UnsupportedOption where views are asked for and the model's domain makes none."""
    if views and embedder.intake.augment is None:
        raise UnsupportedOption("this model's domain has no stability; ask for sanity 'neighbourhood'", param="sanity")


def check_space(embedder: Embedder, work: Work) -> None:
    """Raise UnsupportedOption where vectors are asked for that cannot be held against the reference set's."""
    if work != resolve_work(embedder):
        raise UnsupportedOption(
            "these figures need the model's own pooling and layer: leave both out, or ask for sanity 'flags'",
            param="sanity",
        )
