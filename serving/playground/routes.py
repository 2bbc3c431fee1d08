"""What the playground asks beside embeddings and tasks: pictures, known examples, and neighbours among them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from hub.errors import InvalidInput, UnsupportedOption
from hub.modeling import TaskFile
from serving import answers, page
from serving.engine import Engine
from serving.errors import InputFailed, InvalidRequest, Overloaded
from serving.handling import Encoding, call_of, label, unless_gone
from serving.inputs import Input, UploadedFile
from serving.jobs import Call, Output
from serving.lane import Lane
from serving.playground.examples import Examples, ExampleShelf
from serving.previewing import DRAW
from serving.routes import ERRORS, Routes, add_post, json_body, upload_body
from serving.schemas import InputRequest, TaskAnswer

PICTURE: dict[str, Any] = {
    "description": "A picture of one sample.",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/svg+xml")},
}
NATIVE_FILE: dict[str, Any] = {
    "description": "A file as its domain writes it.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
MOST_WAITING = 32
"""Pictures asked for at a time; beyond it 429."""

# A picture opened by itself runs nothing and loads nothing, whatever it may hold.
_INERT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


class Playground:
    """The handlers; they find models and read bodies as all other routes do."""

    def __init__(self, engine: Engine, routes: Routes) -> None:
        """Serve what ``engine`` serves, under the rules of ``routes``."""
        self._engine = engine
        self._routes = routes
        self._shelf = ExampleShelf(engine)
        self._waiting = 0
        # One thread at most reads for pictures; the others are the models'.
        self._turn = asyncio.Semaphore(1)

    async def preview(self, request: Request, model: str, sample: str | None = None) -> Response:
        """Draw the one input's first usable sample, or that of the key ``sample``."""
        label(request, "/v1/models/{model}/preview")
        lane = self._routes.lane(request, model)
        with self._routes.body(request) as body:
            kind, inputs = await self._routes.task_inputs(body)
            if len(inputs) > 1:
                raise InvalidRequest("a picture is of one input; send one", param=kind)
            label(request, model=model)
            call = call_of(request)
            return _image(await unless_gone(request, self._picture(lane, inputs[0], f"{kind}[0]", sample, call)))

    async def neighbours(self, request: Request, model: str) -> Response:
        """Embed inputs, and tell of each sample its nearest examples and its place on their map."""
        label(request, "/v1/models/{model}/neighbours")
        lane = self._routes.lane(request, model)
        with self._routes.body(request) as body:
            kind, inputs = await self._routes.task_inputs(body)
            label(request, model=model)
            call = call_of(request)
            outputs = await unless_gone(request, self._engine.embed(model, inputs, kind=kind, call=call))
            examples = await unless_gone(request, self._shelf.of(lane))
            with Encoding(self._engine.metrics, model, call):
                found = [[replace(o, value=_told(o, examples)) if isinstance(o, Output) else o for o in per]
                         for per in outputs]  # fmt: skip
                return await answers.task_answer(model, "neighbours", inputs, found, call)

    async def examples(self, request: Request, model: str) -> Any:
        """List a model's examples and where they lie on the map."""
        if (full := f"{model}/examples") in self._engine.lanes:
            return await self._routes.model(request, full)
        label(request, "/v1/models/{model}/examples")
        _, examples = await self._known(request, model)
        return {
            "object": "list",
            "model": model,
            "embedding_space": examples.space,
            "variance": [round(share, 4) for share in examples.shares],
            "data": [{"object": "example", **entry} for entry in examples.listed()],
        }

    async def example(self, request: Request, model: str, name: str) -> Any:
        """Send an example's file."""
        if (full := f"{model}/examples/{name}") in self._engine.lanes:
            return await self._routes.model(request, full)
        label(request, "/v1/models/{model}/examples/{name}")
        _, examples = await self._known(request, model)
        content = examples.file(name).content or b""
        return Response(content, media_type="application/octet-stream", headers={"X-Content-Type-Options": "nosniff"})

    async def example_preview(self, request: Request, model: str, name: str) -> Any:
        """Draw an example, small."""
        if (full := f"{model}/examples/{name}/preview") in self._engine.lanes:
            return await self._routes.model(request, full)
        label(request, "/v1/models/{model}/examples/{name}/preview")
        lane, examples = await self._known(request, model)
        file = examples.file(name)
        if name not in examples.pictures:
            item = UploadedFile(file.content or b"", name)
            examples.pictures[name] = await self._drawn(lane, item, name, call_of(request), small=True)
        return _image(examples.pictures[name])

    async def _known(self, request: Request, model: str) -> tuple[Lane, Examples]:
        lane = self._routes.lane(request, model)
        label(request, model=model)
        return lane, await unless_gone(request, self._shelf.of(lane))

    async def _picture(self, lane: Lane, item: Input, place: str, key: str | None, call: Call) -> TaskFile:
        """Draw an input that the model can read, or at least its domain: the result of a task, say."""
        embedder = await lane.loaded()
        domain = embedder.system.domain
        try:
            return await self._drawn(lane, item, place, call, key=key)
        except InputFailed as error:
            alike = type(embedder.reader) is domain.load("reader")
            if alike or key is not None or not isinstance(error.cause, InvalidInput):
                raise
        return await self._drawn(lane, item, place, call, reader=f"{domain.package}.{domain.references['reader']}")

    async def _drawn(self, lane: Lane, item: Input, place: str, call: Call, **options: Any) -> TaskFile:
        domain = (await lane.loaded()).system.domain
        if "preview" not in domain.references:
            raise UnsupportedOption(f"{domain.title} has no pictures", param="task", code="task_not_found")
        if self._waiting >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} pictures are being drawn already; try again later", retry_after=1)
        self._waiting += 1
        preview = f"{domain.package}.{domain.references['preview']}"
        try:
            async with self._turn:
                drawn = lane.call_reader(DRAW, item, place, preview=preview, **options)
                return await self._engine.in_time(drawn, call)
        finally:
            self._waiting -= 1


def _told(output: Output, examples: Examples) -> dict[str, Any]:
    return {**examples.beside(output.value), "embedding": output.value.tolist()}


def _image(file: TaskFile) -> Response:
    return Response(file.content, media_type=file.media_type, headers=_INERT)


def add_playground(app: FastAPI, routes: Routes) -> None:
    """Add the page, its files, and its routes to an application."""
    playground = Playground(routes.engine, routes)
    for path in page.ASSETS:
        app.add_api_route(
            path,
            page.asset,
            methods=["GET"],
            response_model=None,
            response_class=HTMLResponse,
            include_in_schema=path == "/",
        )
    examples = "/v1/models/{model:path}/examples"
    app.add_api_route(examples, playground.examples, response_model=None, response_class=JSONResponse, responses=ERRORS)
    for path, get, content in (
        (f"{examples}/{{name}}", playground.example, NATIVE_FILE),
        (f"{examples}/{{name}}/preview", playground.example_preview, PICTURE),
    ):
        app.add_api_route(path, get, response_model=None, response_class=Response, responses={200: content, **ERRORS})
    body = json_body(InputRequest) | upload_body(None)
    add_post(app, "/v1/models/{model:path}/preview", playground.preview, PICTURE, body)
    add_post(app, "/v1/models/{model:path}/neighbours", playground.neighbours, {"model": TaskAnswer}, body)
