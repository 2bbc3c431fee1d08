"""The layer that refuses at the door: a request for a model with too much to do gets its 429 before anything is done.

A full service meets far more requests than it answers, and what each refusal costs is taken from the others. So routes
are not looked up for one, its body is not parsed, and no handler is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.errors import HubError
from serving.access import allows
from serving.lane import Lane
from serving.problems import report

WHOLE_BODIES = (b"application/json", b"application/octet-stream", b"multipart/form-data")
"""Bodies that are read to their end before the request's work begins; others are streams."""

_EMBEDDINGS, _MODELS, _V2_MODELS = "/v1/embeddings", "/v1/models/", "/v2/models/"


class Turnstile:
    """ASGI layer that lets a request through when its model has room, and counts those whose bodies are coming."""

    def __init__(self, app: ASGIApp, lanes: Callable[[], Mapping[str, Lane]]) -> None:
        """Wrap an application.

        Args:
            app: The rest of it.
            lanes: Gives the served models as they are now.
        """
        self.app = app
        self._lanes = lanes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        route, wanted = self._wanted(scope)
        if not wanted:
            await self.app(scope, receive, send)
            return
        try:
            lane = _with_room(wanted)
        except HubError as error:
            state = scope["state"]
            state["route"] = route
            if len(wanted) == 1:
                state["model"] = wanted[0].id
            await report(error, state.get("request_id", "")).response(state)(scope, receive, send)
            return
        if len(wanted) > 1 or not _is_whole(scope):
            await self.app(scope, receive, send)
            return
        lane.admission.demand.expect(id(scope))
        try:
            await self.app(scope, _until_whole(receive, lambda: lane.admission.demand.expect_no_more(id(scope))), send)
        finally:
            lane.admission.demand.expect_no_more(id(scope))

    def _wanted(self, scope: Scope) -> tuple[str, list[Lane]]:
        """Return the template of a request's route, and the models one of which it asks to work.

        A path or a key that is not good for any is for the application to tell.
        """
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        lanes, key = self._lanes(), scope["state"].get("key")
        if path == _EMBEDDINGS:
            # Which one stands in the body; when none has room, it need not be read.
            return path, [lane for name, lane in lanes.items() if allows(key, name)]
        if path.startswith(_MODELS):
            name, _, last = path.removeprefix(_MODELS).rpartition("/")
            route = _MODELS + ("{model}/embeddings" if last == "embeddings" else "{model}/{task}")
            # Pictures are drawn where inputs are read, without the model.
            wanted = name in lanes and last != "preview"
        elif path.startswith(_V2_MODELS) and path.endswith("/infer"):
            name = path[len(_V2_MODELS) : -len("/infer")].partition("/versions/")[0]
            route, wanted = _V2_MODELS + "{model}/infer", name in lanes
        else:
            return path, []
        return route, [lanes[name]] if wanted and allows(key, name) else []


def _with_room(wanted: list[Lane]) -> Lane:
    """Return the first with room.

    Raises:
        Overloaded: None has.
        Unavailable: The service stops.
    """
    for lane in wanted[:-1]:
        try:
            lane.admission.check_room()
        except HubError:
            continue
        return lane
    wanted[-1].admission.check_room()
    return wanted[-1]


def _is_whole(scope: Scope) -> bool:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return kind.lower().startswith(WHOLE_BODIES)


def _until_whole(receive: Receive, then: Callable[[], None]) -> Receive:
    async def received() -> Message:
        message = await receive()
        if not message.get("more_body", False):
            then()
        return message

    return received
