"""``fmhub serve``. Only typer is imported here; the rest when the command is called."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serving.config import ServiceSettings
    from serving.supervision import Ending


class Backend(StrEnum):
    """What runs the application."""

    ray = "ray"
    local = "local"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to serve: built-in names, folders or org/repo, each as NAME or ALIAS=NAME; "
            "all built-in ones unless given."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 8000 unless given, 0 takes a free one.")] = None,
    backend: Annotated[Backend, typer.Option(help="ray: Ray Serve. local: one process under uvicorn.")] = Backend.ray,
    config: Annotated[
        Path | None, typer.Option(help="YAML with the service's settings; what is given here comes on top.")
    ] = None,
    write_ray: Annotated[
        Path | None,
        typer.Option(help="Write the configuration for 'serve deploy' and KubeRay to this file, and start nothing."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on other addresses than this machine's without keys.")
    ] = False,
) -> None:
    """Serve embeddings over HTTP, from native files or JSON."""
    # Before anything imports huggingface_hub, which looks once; processes that are started here inherit it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from serving.config import load_settings

    def read_settings() -> ServiceSettings:
        return load_settings(config, {"models": models, "host": host, "port": port, "insecure": insecure or None})

    settings = read_settings()
    if write_ray is not None:
        from serving.ray_config import ray_config_text

        write_ray.write_text(ray_config_text(settings), encoding="utf-8")
        print(f"{write_ray}: for 'serve deploy {write_ray}', or as serveConfigV2 of a RayService")
        return
    ending: Ending | None = None
    if backend is Backend.local and settings.reader_workers:
        from serving.readers.launch import launch_early

        # What readers import and what the server imports takes seconds each: side by side.
        launch_early()
    with tempfile.TemporaryDirectory(prefix="fmhub-samples-") as folder:
        sample = _check_models(settings, Path(folder))

        def on_ready(url: str) -> None:
            names = ", ".join(m.id for m in settings.models)
            print(f"fmhub serves {names} at {url} (backend: {backend.value}). Stop with Ctrl-C.\nTry it:")
            curl = "curl -H 'Authorization: Bearer KEY'" if settings.keys or settings.keys_file else "curl"
            if sample is None:
                print(f"  {curl} {url}/v1/models", flush=True)
            else:
                path = f"{url}/v1/models/{settings.models[0].id}/embeddings"
                print(f"  {curl} -F file=@{sample} {path}", flush=True)

        if backend is Backend.ray:
            from serving.cluster import run_ray

            run_ray(settings, on_ready)
        else:
            from serving.local import run_local

            ending = run_local(settings, on_ready, read_settings if config is not None else None)
    if ending is not None:
        ending.carry_out()


def _check_models(settings: ServiceSettings, folder: Path) -> Path | None:
    """Find every model before anything is started, and write a sample file for the first one.

    Returns:
        The file, or ``None`` where embedders come from elsewhere than the hub.

    Raises:
        HubError: A model does not exist, or its domain's packages are missing.
    """
    from hub.catalog import find_checkpoint
    from hub.domain import system_of

    if settings.embedder_factory != type(settings).model_fields["embedder_factory"].default:
        return None
    checkpoints = [find_checkpoint(m.name, m.revision) for m in settings.checkpoints]
    domain = system_of(checkpoints[0].model_type).domain
    return Path(domain.load("samples")(folder)[0])
