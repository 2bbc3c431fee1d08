"""The configuration file that ``serve deploy`` and KubeRay take, made from the service's settings."""

from __future__ import annotations

from typing import Any

import yaml

from serving.cluster import PROXY_SLACK_SECONDS
from serving.config import ServiceSettings
from serving.engine import FIXED

HEAD = """\
# Made by 'fmhub serve --write-ray'. Deploy it with 'serve deploy FILE'; again after a change.
# What stands under user_config changes without a restart of the replicas, the rest with one.
"""


def ray_config(settings: ServiceSettings) -> dict[str, Any]:
    """Return the configuration of a Ray Serve that runs the service.

    Only what was set explicitly is written, the models always. What a running replica can take over goes to
    ``user_config``: Ray replaces replicas when ``args`` change.
    """
    values = settings.model_dump(mode="json", exclude_unset=True)
    fixed = {name: value for name, value in values.items() if name in (*FIXED, "ray")}
    tls = settings.tls
    return {
        "http_options": {
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": settings.request_timeout_s + PROXY_SLACK_SECONDS,
            **({"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)} if tls else {}),
        },
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": "fmhub",
                "import_path": "serving.deployment:build",
                "route_prefix": "/",
                # The host although Ray listens: a public one without keys is refused.
                "args": {"host": settings.host, **fixed},
                "deployments": [
                    {
                        "name": "fmhub",
                        "max_ongoing_requests": settings.max_ongoing_requests,
                        "user_config": {n: v for n, v in values.items() if n not in fixed},
                    }
                ],
            }
        ],
    }


def ray_config_text(settings: ServiceSettings) -> str:
    """Return the configuration as YAML, with a word on how it is used."""
    return HEAD + yaml.safe_dump(ray_config(settings), sort_keys=False)
