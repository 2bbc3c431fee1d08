"""The page at ``/``: what is served here, and how to ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from serving.lane import Lane

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fmhub</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ccc; vertical-align: top; }}
pre {{ overflow-x: auto; padding: .8rem; background: #8881; }}
</style>
<h1>fmhub</h1>
<p>Embeddings of native files by self-supervised foundation models.</p>
<table>
<tr><th>model<th>state<th>takes<th>dimension<th>further tasks</tr>
{rows}
</table>
<p>Send a file:</p>
<pre>{curl}</pre>
<p>The same with JSON, in the shape of OpenAI's embeddings endpoint:</p>
<pre>POST /v1/embeddings  {{"model": "{model}", "input": {{"data": "BASE64", "filename": "NAME"}}}}</pre>
<p><a href="v1/models">v1/models</a> · <a href="openapi.json">openapi.json</a> · <a href="metrics">metrics</a> ·
<a href="healthz">healthz</a> · <a href="readyz">readyz</a></p>
</html>
"""

HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""The page runs no script and loads nothing from elsewhere."""


def index(lanes: Iterable[Lane], base_url: str) -> str:
    """Return the page.

    Args:
        lanes: The served models.
        base_url: Where the client reached the service, with a slash at its end.
    """
    lanes = list(lanes)
    ready = [lane.id for lane in lanes if lane.state == "ready"]
    first = next(iter(ready or [lane.id for lane in lanes]), "MODEL")
    return _PAGE.format(
        rows="\n".join(_row(lane) for lane in lanes),
        curl=escape(f"curl -F file=@FILE {base_url}v1/models/{first}/embeddings"),
        model=escape(first),
    )


def _row(lane: Lane) -> str:
    takes = tasks = dimension = ""
    if lane.embedder is not None:
        takes = " ".join(lane.embedder.system.domain.suffixes)
        tasks = ", ".join(lane.embedder.model.tasks)
        dimension = str(lane.dimension)
    cells = (lane.id, lane.state.replace("_", " "), takes, dimension, tasks)
    return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"
