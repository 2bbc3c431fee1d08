"""A run on several workers of a Ray cluster: each runs `pretrain`, joined to one process group by Ray Train."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub.errors import HubError, InvalidInput, InvalidRecipe, MissingDependency
from hub.training.continuing import Start
from hub.training.pretrain import Sources, check_output, pretrain
from hub.training.progress import Progress
from hub.training.recipe import Recipe
from hub.training.self_distillation import Distillation

RAY_STATE = "ray"
"""Folder in the run's that Ray keeps its own state in; removed at the end."""


class WorkerFailed(HubError):
    """A worker of a Ray Train job failed; the text is its error."""

    code = "worker_failed"


def pretrain_on_workers(
    recipe: Recipe,
    sources: Sources,
    output: Path,
    workers: int,
    *,
    resume: bool = False,
    start: Start | None = None,
    distillation: Distillation | None = None,
    license: str = "other",
    on_error: Callable[[InvalidInput], None] = lambda error: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Run a recipe as a Ray Train job; the batches, and so the loss trace, are those of one process.

    Joins a running cluster where ``RAY_ADDRESS`` names one, otherwise starts Ray on this machine and stops it at the
    end. On several machines ``sources`` and ``output`` must be on a file system that all of them see.

    Args:
        recipe: See `hub.training.pretrain.pretrain`.
        sources: See there.
        output: See there.
        workers: How many processes train together; each with a GPU where the cluster has enough of them.
        resume: See there.
        start: See there.
        distillation: See there.
        license: See there.
        on_error: Called at the end with each file that could not be read.
        on_progress: Called in this process with what the first worker tells.

    Raises:
        MissingDependency: Ray Train is not installed.
        InvalidRecipe: The number of workers cannot be.
        WorkerFailed: A worker failed.
    """
    if workers < 1:
        raise InvalidRecipe(f"--workers {workers}: a job has at least one worker")
    check_output(output, recipe, resume)
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue
    except ImportError as error:
        raise MissingDependency(f"Ray Train cannot be loaded ({error}); run: pip install 'ray[train]'") from None

    started_here = not ray.is_initialized()
    if started_here:
        address = os.environ.get("RAY_ADDRESS")
        # One logical core more than there are workers, for Ray's own controller.
        local: dict[str, Any] = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, **local)
    storage = output.resolve() / RAY_STATE
    news = Queue(actor_options={"num_cpus": 0})
    job = {
        "recipe": recipe.to_dict(),
        "name": recipe.name,
        "sources": Sources(_absolute(sources.data), sources.column, sources.cache and sources.cache.resolve()),
        "output": output.resolve(),
        "options": {
            "resume": resume,
            "start": start and Start(_absolute(start.weights), start.optimizer),
            "distillation": distillation and Distillation(_absolute(distillation.teacher), distillation.weight),
            "license": license,
        },
        "news": news,
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers),
        run_config=RunConfig(storage_path=str(storage)),
    )
    told: list[str] = []
    listener = threading.Thread(target=_listen, args=(news, told, on_error, on_progress), daemon=True)
    listener.start()
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps what a worker raised in several layers of its own
        news.put(None)
        listener.join()
        raise WorkerFailed(told[0] if told else f"the Ray Train job failed: {error}") from error
    else:
        news.put(None)
        listener.join()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        if started_here:
            ray.shutdown()
        else:
            news.shutdown()
    return output


def _listen(
    news: Any,
    told: list[str],
    on_error: Callable[[InvalidInput], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """Pass on what the first worker says, until told to stop."""
    while (message := news.get()) is not None:
        if isinstance(message, Progress):
            on_progress(message)
        elif isinstance(message, InvalidInput):
            on_error(message)
        else:
            told.append(message)


def _work(job: dict[str, Any]) -> None:
    """Train as one of the workers."""
    import ray.train

    first = ray.train.get_context().get_world_rank() == 0

    def tell(message: Any) -> None:
        if first:
            job["news"].put(message)

    try:
        recipe = Recipe.from_dict(job["recipe"], job["name"])
        pretrain(recipe, job["sources"], job["output"], on_error=tell, on_progress=tell, **job["options"])
    except HubError as error:
        tell(str(error))
        raise


def _absolute(name: str | Path) -> str:
    """Return a path as a worker finds it from its own folder; a name stays as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else str(name)
