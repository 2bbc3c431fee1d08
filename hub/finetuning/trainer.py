"""The loop of fine-tuning: transformers' Trainer on planned batches, judged after each pass, keeping its best."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hub.domain import System
from hub.finetuning.data import TrainingRows, Views, padded_batches
from hub.finetuning.losses import TaskLoss
from hub.finetuning.metrics import class_metrics, multilabel_metrics, number_metrics, ranking
from hub.finetuning.model import TaskHead, TaskModel
from hub.finetuning.modes import parameter_groups
from hub.finetuning.options import FinetuneOptions
from hub.finetuning.targets import UNKNOWN, Targets, align
from hub.finetuning.task import NUMBER_TASKS
from hub.training.plan import BatchPlan
from hub.training.recipe import Recipe, TrainingOptions
from hub.training.schedules import schedule_factor
from hub.training.trainer import TrainingDiverged, training_arguments

LOG_STEPS = 50
"""Steps between two points of the curve, where a pass is longer than that."""

OnEpoch = Callable[[int, Mapping[str, float]], None]


class WholeModel(nn.Module):
    """Encoder and head as what the Trainer calls: a processor's batch to outputs and mask."""

    def __init__(self, model: TaskModel) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(batch, [tokens,] labels)`` and ``(batch, tokens)``."""
        return self.model.logits(batch)


class HeadAlone(nn.Module):
    """The head as what the Trainer calls, on states that a frozen encoder gave before."""

    def __init__(self, head: TaskHead) -> None:
        """Keep the head."""
        super().__init__()
        self.head = head

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(batch, [tokens,] labels)`` and ``(batch, tokens)``."""
        return self.head(states), mask


def judge(
    called: nn.Module, head: TaskHead, views: Views, rows: Sequence[int], targets: Targets, loss: TaskLoss, budget: int
) -> dict[str, float]:
    """Return loss and metrics over some rows; those that could not be read are left out.

    Args:
        called: `WholeModel` or `HeadAlone`; left in eval mode.
        head: Its head.
        views: What it is called on.
        rows: Which rows.
        targets: Their labels.
        loss: The run's.
        budget: Padded cost of one forward.
    """
    called.eval()
    device = next(head.parameters()).device
    total, outputs, wanted = 0.0, [], []
    rows = [row for row in rows if row in views.costs]
    for chosen, batch in padded_batches(views, rows, budget, device):
        with torch.inference_mode():
            found, mask = called(**batch)
            values, steps = targets.batch(chosen)
            total += float(loss(found, mask, values, steps)) * len(chosen)
            if found.ndim == 3:
                values = align(values.to(device), steps.to(device), mask)[mask]
                found = found[mask]
            if targets.task in NUMBER_TASKS:
                found = head.in_units(found)
        outputs.append(found.float().cpu())
        wanted.append(values.cpu())
    produced, truth = torch.cat(outputs).double().numpy(), torch.cat(wanted).numpy()
    if targets.task in NUMBER_TASKS:
        scores = number_metrics(produced, truth)
    elif targets.task == "multilabel":
        scores = multilabel_metrics(produced, truth)
    else:
        scores = class_metrics(produced[truth != UNKNOWN], truth[truth != UNKNOWN])
    return {"loss": total / len(rows), **scores}


class KeepBest(TrainerCallback):  # type: ignore[misc]
    """Remembers the weights of the best pass, and ends a run that gets no better.

    In memory, and only what learns (with all buffers): an encoder that stays as it is needs no copy.
    """

    def __init__(self, called: nn.Module, task: str, patience: int, on_epoch: OnEpoch) -> None:
        """Start with nothing seen.

        Args:
            called: What the Trainer trains.
            task: Decides what better is.
            patience: Passes without a better one before the run ends.
            on_epoch: Told each pass's number and metrics.
        """
        self.called = called
        self.task = task
        self.patience = patience
        self.on_epoch = on_epoch
        self.passes = 0
        self.best_pass = 0
        self.best: tuple[float, float] | None = None
        self.weights: dict[str, Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Compare the pass that has just ended with the best so far."""
        self.passes += 1
        self.on_epoch(self.passes, metrics)
        rank = ranking(self.task, {name.removeprefix("eval_"): value for name, value in metrics.items()})
        if self.best is None or rank > self.best:
            self.best, self.best_pass = rank, self.passes
            self.weights = {name: value.detach().cpu().clone() for name, value in self._learning()}
        elif self.passes - self.best_pass >= self.patience:
            control.should_training_stop = True

    def restore(self) -> None:
        """Put the best pass's weights back, if there was a validation part to tell."""
        for name, value in self._learning():
            if name in self.weights:
                value.data.copy_(self.weights[name])

    def _learning(self) -> list[tuple[str, Tensor]]:
        parameters = [(n, p) for n, p in self.called.named_parameters() if p.requires_grad]
        return parameters + list(self.called.named_buffers())


class FinetuneTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` on labelled rows."""

    def __init__(
        self,
        model: TaskModel,
        called: nn.Module,
        system: System,
        options: FinetuneOptions,
        data: TrainingRows,
        valid: Sequence[int],
        targets: Targets,
        loss: TaskLoss,
        budget: int,
        output: Path,
        on_epoch: OnEpoch = lambda epoch, metrics: None,
    ) -> None:
        """Set the Trainer up.

        Args:
            model: Encoder and head.
            called: What to call on a batch: `WholeModel` or `HeadAlone` of it.
            system: Of the model.
            options: How to train.
            data: On what.
            valid: Rows to judge each pass by; none for training to the end.
            targets: Labels of all rows.
            loss: Of a batch.
            budget: Largest padded cost of a batch.
            output: Folder that the Trainer may write to.
            on_epoch: Told each pass's number and metrics.
        """
        self.task_model = model
        self.options = options
        self.data = data
        self.valid = list(valid)
        self.targets = targets
        self.loss = loss
        self.budget = budget
        per_pass = sum(1 for _ in itertools.takewhile(lambda batch: batch[0].visit == 0, self._plan(1 << 40)))
        self.steps = per_pass * options.epochs
        args = training_arguments(self._recipe(system, per_pass), output)
        args.save_strategy = SaveStrategy.NO
        args.eval_strategy = IntervalStrategy.STEPS if self.valid else IntervalStrategy.NO
        args.eval_steps = per_pass
        self.keeper = KeepBest(called, targets.task, options.patience, on_epoch)
        super().__init__(
            model=called,
            args=args,
            train_dataset=data,
            eval_dataset=self.valid or None,
            data_collator=data.collate,
            callbacks=[self.keeper],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False

    def _recipe(self, system: System, per_pass: int) -> Recipe:
        """Return the run as a recipe, which is what the shared translation to the Trainer's arguments takes."""
        options = self.options
        every = min(per_pass, LOG_STEPS)
        training = TrainingOptions(
            steps=self.steps,
            batch_size=options.batch_size,
            batch_cost=self.budget,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            schedule=options.schedule,
            warmup=options.warmup,
            clip=options.clip,
            precision=options.precision,
            seed=options.seed,
            log_every=every,
            save_every=every,
        )
        return Recipe("finetune", system, training)

    def _plan(self, batches: int) -> BatchPlan:
        costs = [self.data.views.costs[row] for row in self.data.rows]
        return BatchPlan(costs, batches, self.options.batch_size, self.budget, self.options.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the planned batches of the whole run as one epoch."""
        # The features are in memory, so workers would only copy them.
        return DataLoader(self.data, batch_sampler=self._plan(self.steps), collate_fn=self.data_collator, num_workers=0)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build AdamW on the mode's parameter groups."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(parameter_groups(self.task_model, self.options))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the learning-rate schedule, a factor on every group's own rate."""
        if self.lr_scheduler is None:
            factor = schedule_factor(self.options.schedule, self.steps, self.options.warmup)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.create_optimizer(), factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, and stop on one that is not finite."""
        rows = inputs.pop("rows").tolist()
        outputs, mask = model(**inputs)
        loss = self.loss(outputs, mask, *self.targets.batch(rows))
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; the batch held the manifest's rows "
                f"{', '.join(str(row + 1) for row in sorted(rows)[:8])}{' ...' if len(rows) > 8 else ''}"
            )
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Judge the validation part, log it, and tell the callbacks."""
        scores = judge(
            self.keeper.called,
            self.task_model.task_head,
            self.data.views,
            self.valid,
            self.targets,
            self.loss,
            self.budget,
        )
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.keeper.called.train()
        return metrics
