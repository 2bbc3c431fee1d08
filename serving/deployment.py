"""The Ray Serve deployment: one, wrapping the same application that uvicorn runs, so that there is no second hop.

In a Serve YAML: ``import_path: serving.deployment:build`` with ``args: {models: [...]}``; ``args`` takes every name
of `serving.config.ServiceSettings`. ``user_config`` takes them too, has the last word, and is applied without a
restart; where ``args`` names no models, it brings them.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from serving.app import create_app
from serving.config import ServiceSettings, check_settings, with_environment
from serving.engine import Engine
from serving.housekeeping import keep_house
from serving.logs import configure_logging
from serving.replicas import SharedMetrics

LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Ray's own access log names every path; ours names routes."""


@serve.deployment(name="fmhub")
@serve.ingress()
class EmbeddingService:
    """One replica: an engine with its models, and the application over it."""

    async def __init__(self, settings: dict[str, Any]) -> None:
        """Load and warm the models of the start; Ray sends requests only after that."""
        self._values = settings
        checked = _for_replica(_checked(settings))
        configure_logging(checked)
        self._engine = Engine(checked)
        self._housekeeping = asyncio.create_task(keep_house(self._engine))
        self._shared: SharedMetrics | None = None
        if checked.ray.most_replicas > 1:
            context = serve.get_replica_context()
            self._shared = SharedMetrics(self._engine.metrics, context.app_name, context.replica_id.unique_id)
            self._publishing = asyncio.create_task(self._shared.publish())
        try:
            await self._engine.wait_ready()
        except BaseException:
            await self._engine.close()
            raise

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application; Ray runs its lifespan, which closes the engine at the end."""
        # Built here, in the replica: an engine owns threads and cannot be sent. Ray's proxy sends the request's id.
        exposition = self._shared.exposition if self._shared is not None else None
        return create_app(self._engine, send_request_id=False, exposition=exposition)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Go over to changed settings: models come and go, the others stay loaded.

        Args:
            user_config: Names of `ServiceSettings` that replace those of ``args``.
        """
        await self._engine.apply(_for_replica(check_settings({**self._values, **user_config})))

    def check_health(self) -> None:
        """Raise when the engine cannot answer any more; Ray then replaces the replica."""
        self._engine.check()


def build(args: dict[str, Any]) -> Application:
    """Return the application for ``serve run`` and ``serve deploy``; the environment's settings come on top.

    Raises:
        InvalidSettings: ``args`` or the environment holds a name or value that cannot be.
    """
    values = with_environment(args, os.environ)
    return application(_checked(values), values if "models" not in values else None)


def _checked(values: dict[str, Any]) -> ServiceSettings:
    """Return settings of which ``user_config`` may still bring the models, and the keys with them."""
    if "models" in values:
        return check_settings(values)
    return check_settings({**values, "models": ["later"], "insecure": True}).model_copy(update={"models": []})


def application(settings: ServiceSettings, values: dict[str, Any] | None = None) -> Application:
    """Return the application of these settings; its replicas get them as ``values`` where these are given."""
    ray = settings.ray
    scale: dict[str, Any] = {"num_replicas": ray.num_replicas}
    if ray.autoscaling is not None:
        scale = {"autoscaling_config": ray.autoscaling}
    service: Any = EmbeddingService  # the decorator turns the class into a Deployment, which mypy cannot see
    deployment = service.options(
        **scale,
        ray_actor_options={"num_cpus": ray.num_cpus, "num_gpus": ray.num_gpus},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=ray.max_queued_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=settings.shutdown_grace_s + 5,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=ray.health_check_period_s,
        # A model that cannot be loaded now will not be loadable in a second; Ray's default is twenty tries.
        max_constructor_retry_count=1,
        logging_config=LOGGING,
    )
    return deployment.bind(settings.model_dump(mode="json") if values is None else values)


def _for_replica(settings: ServiceSettings) -> ServiceSettings:
    """Share the machine's cores among the replicas, unless it is said how many threads torch may use.

    Ray tells OpenMP to use as many threads as CPUs are reserved, which is one unless said otherwise.
    """
    if settings.torch_threads is not None:
        return settings
    threads = max(1, (os.cpu_count() or 1) // settings.ray.most_replicas)
    return settings.model_copy(update={"torch_threads": threads})
