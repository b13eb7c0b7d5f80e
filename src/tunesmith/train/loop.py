"""The training loop: one for every stage, method and number of ranks.

It walks a pure plan (`data/plan.py`) with a cursor. Each optimizer step adds up the loss sums of its
micro-batches on all ranks and divides once, by the weight of the whole global batch, so the update does not
depend on how the batch was cut. Randomness is a function of (seed, step, rank, micro-batch). Both together
make a resumed run continue bit for bit where it stopped.

What it does not do: decide settings (`run.py`), know a loss (`stages/`), or write files (`checkpoint.py`, `sinks.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunesmith.data.collate import Batch, collate
from tunesmith.data.plan import PlanSpec, StepPlan, plan_epoch
from tunesmith.data.store import ExampleStore
from tunesmith.errors import UserError
from tunesmith.train.balance import ExpertBalance
from tunesmith.train.diagnose import NonFinite
from tunesmith.train.evaluate import Evaluator
from tunesmith.train.optim import before_last_backward, clip, settled_weights
from tunesmith.train.plateau import Follower
from tunesmith.train.runtime import Runtime, seed_everything
from tunesmith.train.schedule import Schedule
from tunesmith.train.sinks import Reporter, clock
from tunesmith.train.stage import Stage, Step, Sums, Update
from tunesmith.train.state import TrainerState

_RENAMED = ("loss", "eval_loss", "grad_norm", "learning_rate")
"""Metrics with a place of their own in a line of `trainer_log.jsonl`."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """When to stop, log, evaluate and save; every `_steps` is None where that never happens by steps.

    `per_epoch` names what happens at the end of each epoch: "log", "eval", "save".
    """

    total_steps: int
    learning_rate: float
    max_grad_norm: float
    seed: int
    logging_steps: int | None
    eval_steps: int | None
    save_steps: int | None
    per_epoch: frozenset[str] = frozenset()
    log_first_step: bool = False
    metric: str = "eval_loss"
    greater_is_better: bool = False
    keep_best: bool = False
    patience: int | None = None
    eval_delay: float = 0.0


class Saver(Protocol):
    """Writes a checkpoint of the state as it is now."""

    def save(self, state: TrainerState) -> None:
        """Save; raises TrainingError when it cannot, leaving earlier checkpoints as they are."""


class Interrupt(Protocol):
    """Tells whether the user asked to stop."""

    @property
    def requested(self) -> bool:
        """True from the moment of the request."""


@dataclass
class Loop:
    """Everything a run needs, put together by `run.py`. `scorer` may be wrapped for data parallel training."""

    runtime: Runtime
    scorer: nn.Module
    stage: Stage
    store: ExampleStore
    plan: PlanSpec
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    plateau: Follower | None
    settings: LoopSettings
    state: TrainerState
    reporter: Reporter
    saver: Saver | None
    interrupt: Interrupt
    evaluator: Evaluator | None = None
    grad_scaler: torch.amp.GradScaler | None = None
    balance: ExpertBalance | None = None
    _tokens_per_s: float = field(default=0.0, init=False)
    _remaining_s: float = field(default=0.0, init=False)

    def run(self) -> bool:
        """Train until the last step. Returns False when the user stopped it, the state then being saved."""
        self._weights = self.stage.example_weights(self.store)
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self._parameters = [p for p in self.scorer.parameters() if id(p) in trained]
        self._started_s = time.monotonic() - self.state.train_runtime_s
        self._tokens_here, self._here_s = 0, time.monotonic()
        if self.state.global_step >= self.settings.total_steps or self._out_of_patience():
            self.reporter.say(f"nothing is left to train: step {self.state.global_step} was the last one of this run")
        self.reporter.start(self.settings.total_steps, self.state.global_step)
        try:
            for step_plan, num_steps in self._remaining():
                self._step(step_plan)
                self._advance(num_steps)
                last = self.state.global_step == self.settings.total_steps
                stopped_early = self._after_step(epoch_ends=self.state.epoch_step == 0, last=last)
                if last or stopped_early:
                    break
                if self._anyone_interrupts():
                    self._save(force=True)
                    return False
        finally:
            self.reporter.stop()
        self.state.finished = True
        return True

    def _remaining(self) -> Iterator[tuple[StepPlan, int]]:
        """The steps from the cursor on, each with the number of steps in its epoch."""
        while self.state.global_step < self.settings.total_steps and not self._out_of_patience():
            steps = plan_epoch(self.store.lengths.tolist(), self.plan, self.state.epoch_index)
            for step_plan in steps[self.state.epoch_step :]:
                yield step_plan, len(steps)

    def _advance(self, num_steps: int) -> None:
        """Move the cursor past the step that was just taken."""
        state = self.state
        state.global_step += 1
        state.epoch_step += 1
        state.epoch = state.epoch_index + state.epoch_step / num_steps
        if state.epoch_step == num_steps:
            state.epoch_index, state.epoch_step = state.epoch_index + 1, 0

    def _step(self, step_plan: StepPlan) -> None:
        """One step of the plan: usually one optimizer update over all ranks, several where the stage asks for them."""
        number, state = self.state.global_step, self.state
        module: Any = getattr(self.scorer, "module", self.scorer)  # past the data parallel wrapper
        step = Step(number, step_plan, self.store, self._weights, self.runtime, module, self.settings.seed)
        self._learning_rate = self._set_learning_rate(number)
        sums, num_tokens = Sums(), 0
        for place, update in enumerate(self._updates(step)):
            sums = sums.plus(self._update(update, place))
            num_tokens += update.num_tokens
        for name, pair in sums.totals.items():
            total, weight = state.metrics_since_log.get(name, (0.0, 0.0))
            state.metrics_since_log[name] = (total + pair[0], weight + pair[1])
        self._count(sums.means()["loss"], num_tokens)

    def _updates(self, step: Step) -> Iterator[Update]:
        """The stage's updates of a step. Raises: UserError of the stage, the state then being saved where it can be.

        Before the first update nothing of the step has been learnt yet: where a reward fails, for instance, the run
        goes on from here once the cause is removed. Other ranks do not know of it, so several save nothing.
        """
        updates = self.stage.updates(step)
        try:
            first = next(updates)
        except UserError:
            if self.state.global_step > 0 and self.runtime.world_size == 1:
                self._save(force=True)
                self.reporter.say(f"stopped at step {self.state.global_step}; the same command goes on from there")
            raise
        yield first
        yield from updates

    def _update(self, update: Update, place: int) -> Sums:
        """One optimizer update. Returns loss and metrics over all ranks. Raises: NonFinite."""
        runtime = self.runtime
        scale = runtime.world_size / update.weight  # data parallel training averages the gradients; the sum is wanted
        self.stage.before_update(self.scorer, update, runtime)
        self.scorer.train()
        sums = Sums()
        if self.balance:
            self.balance.begin_step(self.scorer, self._batches(update, place))
        for number, batch in enumerate(self._batches(update, place)):
            more_to_come = number + 1 < len(update.micro_batches)
            if not more_to_come:
                before_last_backward(self.optimizer)
            with runtime.no_sync(self.scorer) if more_to_come else nullcontext():
                out = self.stage.step(self.scorer, batch)
                extra = runtime.world_size * self.balance.part(batch) if self.balance else 0.0
                self._backward(out.loss_sum * scale + extra)
            sums.add(out)
        sums = sums.over_ranks(runtime)
        loss = sums.totals["loss"][0] / update.weight
        self._grad_norm = self._clip(loss, update)
        self._apply()
        aux = {"aux_loss": (self.balance.end_step(), 1.0)} if self.balance else {}
        return Sums({**sums.totals, **update.metrics, **aux, "loss": (loss, 1.0)})

    def _batches(self, update: Update, place: int) -> Iterator[Batch]:
        """This rank's micro-batches of an update, the random generators set anew before each."""
        for number, micro in enumerate(update.micro_batches):
            seed_everything(self.settings.seed, self.state.global_step, place, self.runtime.rank, number)
            yield collate(update.store, micro).to(self.runtime.device)

    def _backward(self, loss: Tensor) -> None:
        (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

    def _set_learning_rate(self, step: int) -> float:
        factor = self.schedule(step) * (self.plateau.scale if self.plateau else 1.0)
        learning_rate = self.settings.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("peak_lr", self.settings.learning_rate) * factor
        return learning_rate

    def _clip(self, loss: float, update: Update) -> float:
        """Clip the global norm. Returns the norm before clipping. Raises: NonFinite."""
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm or math.inf
        norm = clip(self.optimizer, self._parameters, limit)
        overflow_is_handled = self.grad_scaler is not None and math.isfinite(loss)
        if not (math.isfinite(loss) and (math.isfinite(norm) or overflow_is_handled)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFinite(self.state.global_step + 1, loss, norm, update.store, update.members)
        return norm

    def _apply(self) -> None:
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _count(self, loss: float, num_tokens: int) -> None:
        state = self.state
        state.num_input_tokens_seen += num_tokens
        self._tokens_here += num_tokens
        state.loss_total += loss
        state.loss_since_log += loss
        state.steps_since_log += 1
        elapsed_s = max(time.monotonic() - self._here_s, 1e-9)
        state.train_runtime_s = time.monotonic() - self._started_s
        self._tokens_per_s = self._tokens_here / elapsed_s
        done = state.global_step + 1
        self._remaining_s = state.train_runtime_s / done * (self.settings.total_steps - done)
        self.reporter.step(done, self.settings.total_steps, loss, self._tokens_per_s, self._remaining_s)

    def _after_step(self, *, epoch_ends: bool, last: bool) -> bool:
        """Log, evaluate, save as due. Returns whether training should stop early."""
        settings = self.settings
        first = self.state.global_step == 1 and settings.log_first_step
        if first or self._due("log", settings.logging_steps, epoch_ends, last):
            self._log_training()
        stop = False
        improved = False
        if self.evaluator and self._past_delay() and self._due("eval", settings.eval_steps, epoch_ends, last=False):
            improved = self._observe(self.evaluate())
            stop = self._out_of_patience()
            if stop:
                self.reporter.say(
                    f"stopping early: {settings.metric} has not improved in {settings.patience} evaluations"
                )
        if improved and settings.keep_best:
            self.state.best_model_checkpoint = f"checkpoint-{self.state.global_step}"
        due = self._due("save", settings.save_steps, epoch_ends, last)
        self._save(force=due or (improved and settings.keep_best) or (stop and bool(self.saver)))
        return stop

    def _due(self, what: str, every: int | None, epoch_ends: bool, last: bool) -> bool:
        by_epoch = what in self.settings.per_epoch
        if every is None and not by_epoch:
            return False
        return last or (by_epoch and epoch_ends) or (every is not None and self.state.global_step % every == 0)

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.num_worse_evaluations >= patience

    def _past_delay(self) -> bool:
        """`eval_delay` counts steps or epochs, as evaluation does."""
        by_epoch = "eval" in self.settings.per_epoch
        return (self.state.epoch if by_epoch else self.state.global_step) >= self.settings.eval_delay

    def _log_training(self) -> None:
        state = self.state
        if state.steps_since_log == 0:
            return
        loss = state.loss_since_log / state.steps_since_log
        metrics = {name: total / weight for name, (total, weight) in state.metrics_since_log.items() if weight}
        state.loss_since_log, state.steps_since_log, state.metrics_since_log = 0.0, 0, {}
        self._record({**metrics, "loss": loss, "grad_norm": self._grad_norm, "learning_rate": self._learning_rate})

    def evaluate(self) -> Mapping[str, float]:
        """Evaluate all sets as the model is now, and record it."""
        assert self.evaluator is not None
        with settled_weights(self.optimizer):
            metrics = self.evaluator.evaluate(self.scorer)
        self._record(metrics)
        return metrics

    def _observe(self, metrics: Mapping[str, float]) -> bool:
        """Take an evaluation into account for best, patience and plateau. Returns whether it is the best so far."""
        value = metrics[self.settings.metric]
        state = self.state
        better = state.best_metric is None or (
            value > state.best_metric if self.settings.greater_is_better else value < state.best_metric
        )
        if better:
            state.best_metric, state.best_global_step, state.num_worse_evaluations = value, state.global_step, 0
        else:
            state.num_worse_evaluations += 1
        if self.plateau is not None:
            self.plateau.observe(value, self.settings.learning_rate)
            state.plateau = vars(self.plateau).copy()
        return better

    def _record(self, metrics: Mapping[str, Any]) -> None:
        """One entry of the history, the log file and the screen."""
        state, total = self.state, self.settings.total_steps
        state.log_history.append({**metrics, "epoch": round(state.epoch, 4), "step": state.global_step})
        record = {
            "current_steps": state.global_step,
            "total_steps": total,
            "loss": metrics.get("loss"),
            "eval_loss": metrics.get("eval_loss"),
            "grad_norm": metrics.get("grad_norm"),
            "lr": metrics.get("learning_rate"),
            "reward": metrics.get("reward"),
            "accuracy": metrics.get("rewards/accuracies"),
            **{key: value for key, value in metrics.items() if key not in _RENAMED},
            "epoch": round(state.epoch, 4),
            "percentage": round(100 * state.global_step / total, 2),
            "elapsed_time": clock(state.train_runtime_s),
            "remaining_time": clock(self._remaining_s),
            "throughput": round(self._tokens_per_s, 2),
            "total_tokens": state.num_input_tokens_seen,
        }
        shown = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        speed = f"  {self._tokens_per_s:,.0f} tokens/s  {clock(self._remaining_s)} left" if "loss" in metrics else ""
        self.reporter.log(record, f"step {state.global_step}/{total}  epoch {state.epoch:.2f}  {shown}{speed}")

    def _save(self, *, force: bool) -> None:
        if force and self.saver is not None:
            self.saver.save(self.state)

    def _anyone_interrupts(self) -> bool:
        return self.runtime.sum([float(self.interrupt.requested)])[0] > 0
