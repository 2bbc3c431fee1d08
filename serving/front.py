"""What every route asks before it works: which models a request may see, its body, and how many inputs it may have."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from hub.errors import UnknownModel
from serving.access import check_model, may_use
from serving.bodies import BodyReader, PendingBytes
from serving.engine import Engine
from serving.errors import BodyTooLarge, InvalidRequest
from serving.inputs import Input
from serving.lane import Lane


class Front:
    """The rules of access and size that hold for all protocols alike, over one engine."""

    def __init__(self, engine: Engine) -> None:
        """Serve what ``engine`` serves."""
        self._engine = engine
        self._pending = PendingBytes()

    @property
    def engine(self) -> Engine:
        """What answers."""
        return self._engine

    def visible(self, request: Request) -> dict[str, Lane]:
        """Return the models that this request may see, by id."""
        return {name: lane for name, lane in self.engine.lanes.items() if may_use(request, name)}

    def lane(self, request: Request, model: str) -> Lane:
        """Return a served model that this request may use.

        Raises:
            Forbidden: Its key may not.
            UnknownModel: There is none of this name; the text lists those that it may use.
        """
        check_model(request, model)
        visible = self.visible(request)
        if model not in visible:
            raise UnknownModel(f"no model {model[:100]!r} is served here; served: {', '.join(visible)}")
        return visible[model]

    def body(self, request: Request) -> BodyReader:
        """Return the reader of this request's body, under the service's limits."""
        return BodyReader(request, self.engine.settings, self._pending, self.engine.spool)

    def check_count(self, inputs: Sequence[Input], kind: str) -> None:
        """Refuse a request without inputs, or with more than one may have.

        Raises:
            InvalidRequest: There is none.
            BodyTooLarge: There are too many.
        """
        limit = self.engine.settings.max_inputs
        if not inputs:
            raise InvalidRequest(f"{kind} is empty: there is nothing to do", param=kind, code="empty_input")
        if len(inputs) > limit:
            raise BodyTooLarge(
                f"{len(inputs)} inputs are more than the {limit} that one request may have", code="too_many_inputs"
            )
