"""The one training loop: transformers' Trainer, given our batches, optimisers and monitors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from hub.errors import HubError, InvalidRecipe
from hub.modeling import EmbeddingModel, PretextModel
from hub.quiet import without_progress_bars
from hub.training.continuing import take_over_optimizer, write_schedule_state
from hub.training.data import Collation, TrainingData
from hub.training.dino import DinoAdamW
from hub.training.lars import Lars
from hub.training.monitors import CollapseMonitor
from hub.training.plan import BatchPlan
from hub.training.recipe import Recipe
from hub.training.schedules import phase, schedule_factor
from hub.training.self_distillation import Distiller

KEPT_CHECKPOINTS = 2
OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "lars": Lars, "dino-adamw": DinoAdamW}


class TrainingDiverged(HubError):
    """The loss is not finite; the text names the step and the samples of the batch."""

    code = "training_diverged"


class TeacherUpdate(TrainerCallback):  # type: ignore[misc]
    """Moves a pretext task's teacher after each optimiser step."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call the task's ``update_teacher`` with the run's progress."""
        kwargs["model"].update_teacher((state.global_step + 1) / state.max_steps)


class PretextTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` on planned batches, with named metrics and atomic checkpoints."""

    def __init__(
        self,
        model: PretextModel,
        recipe: Recipe,
        data: TrainingData,
        output: Path,
        callbacks: list[Any],
        *,
        monitor: CollapseMonitor | None = None,
        distiller: Distiller | None = None,
        optimizer_from: Path | None = None,
        batches_a_part: int = 0,
    ) -> None:
        """Set the Trainer up from a recipe.

        Args:
            model: Pretext task to train.
            recipe: How.
            data: On what.
            output: Folder of the run.
            callbacks: Further Trainer callbacks.
            monitor: Looks at how the embeddings spread, now and then.
            distiller: Adds the distance to a teacher's token states.
            optimizer_from: Resumable checkpoint of another run whose optimiser's state to go on with.
            batches_a_part: Batches between two changes of the pool; the whole run when 0.
        """
        self.recipe = recipe
        self.task = model
        self.output = output
        self.data = data
        self.samples_seen = 0
        self.monitor = monitor
        self.distiller = distiller
        self.optimizer_from = optimizer_from
        options = recipe.training
        self.plan = BatchPlan(
            [e.cost for e in data.entries],
            batches=batches_a_part or options.steps * options.accumulation,
            batch_size=options.batch_size,
            batch_cost=options.batch_cost,
            seed=options.seed,
            blocks=data.blocks,
        )
        self._metrics: dict[str, list[torch.Tensor]] = {}
        super().__init__(
            model=model,
            args=training_arguments(recipe, output),
            train_dataset=data,
            data_collator=Collation(data.collator, recipe.training.seed),
            callbacks=[TeacherUpdate(), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        # The pretext task returns the mean over its batch; the Trainer then divides by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the planned batches as one epoch (of the run, or of a pool), so that resuming is skipping."""
        options = self.recipe.training
        self.plan.process, self.plan.processes = self.args.process_index, self.args.world_size
        # Not handed to accelerate: the plan knows which part of a batch is this process's, and the Trainer moves
        # tensors to the device.
        return DataLoader(
            self.data,
            batch_sampler=self.plan,
            collate_fn=self.data_collator,
            num_workers=options.readers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=options.readers > 0,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the recipe's optimiser on the task's parameter groups."""
        if self.optimizer is None:
            options = self.recipe.training
            groups = self.task.parameter_groups(options.weight_decay)
            self.optimizer = optimizer_class(self.recipe)(groups, lr=options.learning_rate)
            if self.optimizer_from is not None:
                take_over_optimizer(self.optimizer, self.optimizer_from)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the recipe's learning-rate schedule."""
        if self.lr_scheduler is None:
            options = self.recipe.training
            factor = schedule_factor(options.schedule, options.steps, options.warmup, options.decay, options.final)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.create_optimizer(), factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Run the task on one batch, keep its metrics, and stop on a loss that is not finite."""
        indices = inputs.pop("indices")
        output = model(**inputs)
        if self.distiller is not None:
            with self.compute_loss_context_manager():
                self.distiller.add_to(output, inputs)
        if not torch.isfinite(output.loss):
            files = sorted({self.data.entries[i].label for i in indices.tolist()})
            raise TrainingDiverged(
                f"the loss is {output.loss.item()} at step {self.state.global_step + 1}; the batch held samples of "
                f"{', '.join(files[:8])}{' ...' if len(files) > 8 else ''}"
            )
        for name, value in (output.metrics or {}).items():
            self._metrics.setdefault(name, []).append(torch.as_tensor(value).detach())
        self.samples_seen += len(indices) * self.args.world_size
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each metric since the last point of the curve."""
        if "loss" in logs:
            for name, values in self._metrics.items():
                mean = torch.stack(values).float().mean()
                logs[name] = float(self.accelerator.reduce(mean.to(self.args.device), "mean"))
            self._metrics = {}
            options = self.recipe.training
            if self.monitor is not None and self.state.global_step % (options.monitor_every or options.save_every) == 0:
                logs.update(self.monitor.figures(cast(EmbeddingModel, self.task.base_model)))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Written beside its place and renamed: a kill in the middle leaves the previous checkpoint as the last.
        final = self.output
        partial = final / ".partial"
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(partial)
        try:
            with without_progress_bars():
                super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(final)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            options = self.recipe.training
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            where = phase(options.schedule, self.state.global_step, options.steps, options.warmup, options.decay)
            write_schedule_state(partial / name, options.schedule, where, self.state.global_step, options.steps)
            shutil.rmtree(final / name, ignore_errors=True)
            os.replace(partial / name, final / name)
            for old in sorted(final.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step_of)[:-KEPT_CHECKPOINTS]:
                shutil.rmtree(old)
            shutil.rmtree(partial, ignore_errors=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def last_checkpoint(output: Path) -> str | None:
    """Return the newest resumable checkpoint of a run, if there is one."""
    return get_last_checkpoint(str(output)) if output.is_dir() else None


def optimizer_class(recipe: Recipe) -> Any:
    """Return the class that the recipe's ``training.optimizer`` names.

    Raises:
        InvalidRecipe: There is no such class.
    """
    name = recipe.training.optimizer
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    try:
        return recipe.system.domain.resolve(name)
    except (ModuleNotFoundError, AttributeError, ValueError):
        raise InvalidRecipe(
            f"training.optimizer {name!r} is neither {', '.join(OPTIMIZERS)} nor a 'module:Class' of "
            f"{recipe.system.domain.package}"
        ) from None


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """Translate a recipe to the Trainer's own arguments."""
    options = recipe.training
    return TrainingArguments(
        output_dir=str(output),
        max_steps=options.steps,
        # The plan makes the batches; this is only what the Trainer prints.
        per_device_train_batch_size=options.batch_size or 1,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        max_grad_norm=options.clip,
        use_cpu=not torch.cuda.is_available(),
        bf16=options.precision == "bf16",
        torch_compile=options.compile,
        seed=options.seed,
        logging_steps=options.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=options.save_every,
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
