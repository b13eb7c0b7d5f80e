"""The `train` verb from a resolved configuration to a finished run folder.

Order: folder rules, precision, tokenizer and template, data (with the ledger printed), identity and resume,
model, loop, final files. What can be refused is refused before the weights are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.data.prepare import prepare
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ConfigError
from tunesmith.model.adapters import leave_inputs_to_autocast
from tunesmith.model.checkpoints import checkpoints
from tunesmith.model.load import check_base_model, load_tokenizer, model_folder, model_options
from tunesmith.model.methods.files import write_at_end, write_at_start
from tunesmith.model.moe import RouterTap
from tunesmith.model.neftune import EmbeddingNoise
from tunesmith.model.parameters import summary_lines, upcast_norms
from tunesmith.model.quantize import quantization_words
from tunesmith.model.quantized_layers import stored_bytes
from tunesmith.model.quiet import quiet_transformers
from tunesmith.model.save import save_into, save_weights, tokenizer_files, write_files
from tunesmith.model.scorer import Scorer
from tunesmith.model.value_head import load_value_head, save_value_head
from tunesmith.model.verify import read_model_config
from tunesmith.render import load_renderer
from tunesmith.train import folder as run_folder
from tunesmith.train.balance import ExpertBalance
from tunesmith.train.build import build_model, build_value_head, prove_scores, put_weights_back
from tunesmith.train.checkpoint import (
    check_identity,
    load_training_state,
    rotate,
    save_failure,
    save_training_state,
    write_checkpoint,
)
from tunesmith.train.diagnose import NonFinite, explain, find_suspects
from tunesmith.train.evaluate import Evaluator
from tunesmith.train.frozen import with_frozen_states
from tunesmith.train.identity import identify
from tunesmith.train.interrupt import Interrupt
from tunesmith.train.loop import Loop
from tunesmith.train.memory import memory_need
from tunesmith.train.optim import check_optimizer, make_optimizer, settled_weights, updates_in_backward
from tunesmith.train.outcome import closing_lines, in_one_line, plot_outcome, training_results, write_outcome
from tunesmith.train.predict import PREDICTIONS, predict, write_predictions
from tunesmith.train.runtime import Runtime, available_memory_bytes, peak_memory_bytes, precision, seed_everything
from tunesmith.train.schedule import make_schedule
from tunesmith.train.settings import (
    count_steps,
    decide_checkpointing,
    decide_layout,
    largest_row,
    loop_settings,
    plan_spec,
    plateau_of,
    schedule_spec,
)
from tunesmith.train.sinks import Reporter
from tunesmith.train.stage import STAGES, Setup, Stage
from tunesmith.train.state import TrainerState

EXIT_STOPPED = 130


def train(resolved: Resolved) -> int:
    """Run a training. Returns the exit code: 0 finished, 130 stopped by the user with everything saved.

    Raises:
        UserError: anything that the user can put right.
    """
    config = resolved.config
    if not config.do_train:
        raise ConfigError(
            "`do_train: false`: there is nothing to do",
            fix="set `do_train: true`, or `do_predict: true` to have the rows answered; evaluation alone comes later",
        )
    runtime = Runtime(use_cpu=config.use_cpu, ddp_timeout_s=config.ddp_timeout)
    assert config.output_dir is not None
    reporter = Reporter(Path(config.output_dir), runtime.is_main)
    try:
        return Run(resolved, runtime, reporter).execute()
    finally:
        reporter.close()
        runtime.close()


@dataclass
class Run:
    """One training; the steps of `execute` in order."""

    resolved: Resolved
    runtime: Runtime
    reporter: Reporter

    def execute(self) -> int:
        """Train and leave the run folder complete."""
        self.folder = Path(str(self.config.output_dir))
        base_notes = check_base_model(self.config, self.runtime.device, for_training=True)
        passed_over: list[str] = []
        start = run_folder.find_start(self.resolved, passed_over.append)
        dtypes = precision(self.resolved, self.runtime.device)
        passed_over += check_optimizer(self.config, self.runtime.device, self.runtime.world_size)
        self.resolved = decide_layout(self.resolved, self.runtime.device)
        self.stage: Stage = STAGES.get(self.config.stage)(self.config)
        self.tokenizer = load_tokenizer(self.config)
        self.rope, option_notes = model_options(
            self.config, for_training=True, adapters=self.config.adapter_name_or_path, device=self.runtime.device
        )
        model_type = read_model_config(model_folder(self.config)).get("model_type")
        self.renderer = load_renderer(self.config, self.tokenizer, model_type)
        self.tokenizer.padding_side = "left"  # what generation in batches needs
        self.tokenizer_files = tokenizer_files(self.tokenizer)
        need_eval = self.config.do_eval or self.config.do_predict or self.config.eval_strategy != "no"
        self.prepared = prepare(self.config, self.renderer, self.resolved.config_dir, need_eval=need_eval)
        self.stage.check_data([self.store, *self.prepared.evals.values()], self.resolved.config_dir)
        self.plan = plan_spec(self.config, self.runtime.world_size)
        self.row_tokens = largest_row(self.store.lengths.tolist(), self.plan)
        self.identity = identify(self.config, self.renderer, self.prepared, self.plan)
        changes = check_identity(start, self.identity) if start else []
        self._open(start, [*base_notes, *option_notes, *passed_over, *changes])
        self._say(self.prepared.ledger.summary_lines())
        self._build_model(start, dtypes)
        self._build_loop(start, dtypes[0])
        self._write_head()
        return self._train()

    @property
    def config(self) -> Config:
        """The settings as they are now."""
        return self.resolved.config

    @property
    def store(self) -> ExampleStore:
        """The training examples."""
        return self.prepared.train

    def _open(self, start: Path | None, notes: list[str]) -> None:
        if self.runtime.is_main:
            if start is None and self.config.overwrite_output_dir:
                run_folder.clear_for_new_run(self.folder, self.reporter.say)
            run_folder.open_folder(self.folder)
        self.runtime.wait()
        resumed_step = TrainerState.read(start).global_step if start else None
        self.reporter.open_files(resumed_step)
        for note in [*self.resolved.notes, *self.renderer.notes, *notes]:
            self.reporter.say(f"note: {note}")
        if start:
            self.reporter.say(f"resuming from {start} (step {resumed_step})", style="bold")

    def _build_model(self, start: Path | None, dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]) -> None:
        """Base weights, adapters, what the stage needs of them, and the proof that packed rows can be scored."""
        config, compute = self.config, dtypes[0]
        seed_everything(config.seed, 0)  # new adapters start from the seed
        if config.full_determinism:
            torch.use_deterministic_algorithms(True)
        self.reporter.say(f"loading {config.model_name_or_path}")
        # an adapter has its shape from the settings and its numbers from the checkpoint; whole models are read from
        # there at once, unless the stage looks at the weights that the run started from
        put_back = start is not None and (config.trains_adapter or self.stage.needs_start)
        source = None if put_back else start
        model = build_model(
            config,
            dtypes[1:],
            source,
            self.tokenizer,
            lambda line: self.reporter.say(f"note: {line}"),
            self.runtime.device,
        )
        if self.runtime.is_main:
            write_at_start(model, config, self.tokenizer, self.folder, is_resumed=start is not None)
        if compute != torch.float32:
            leave_inputs_to_autocast(model)
        if config.upcast_layernorm:
            self.reporter.say(f"upcast_layernorm: {upcast_norms(model)} parameters are now kept in 32 bits")
        self._settle_memory(model, compute)
        if self.config.gradient_checkpointing:
            with quiet_transformers():
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if words := quantization_words(config):
            self.reporter.say(f"base model in {words}: {stored_bytes(model) / 1e9:.2f} GB of weights")
        self.model = model.to(self.runtime.device)
        if config.neftune_noise_alpha:
            EmbeddingNoise(self.model, config.neftune_noise_alpha)
        coefficient = config.moe_aux_loss_coef
        self.balance = ExpertBalance(RouterTap(self.model, coefficient), self.runtime) if coefficient else None
        head = build_value_head(self.model, config).to(self.runtime.device) if self.stage.needs_value_head else None
        self.scorer = Scorer(self.model, compute, self.runtime.device.type, head)
        prove_scores(self.scorer, self.store, self.plan, self.runtime.device)
        self._prepare_stage()
        self._say(summary_lines(self._trained, each=self.config.print_param_status))
        if start is not None:
            self._put_back(start, only_head=not put_back)

    def _put_back(self, checkpoint: Path, *, only_head: bool = False) -> None:
        """Take the trained weights from a checkpoint of this run."""
        if not only_head:
            put_weights_back(self.model, self.config, checkpoint)
        head = self.scorer.value_head
        if head is not None:
            head.load_state_dict(load_value_head(checkpoint, head.summary.in_features).state_dict())

    def _save_weights(self, folder: Path) -> None:
        save_weights(self.model, folder)
        if self.scorer.value_head is not None:
            save_value_head(self.scorer.value_head, folder)
        if self.rope.scaling is not None:
            self.rope.scaling.write(folder)

    @property
    def _trained(self) -> torch.nn.Module:
        """What holds all parameters that are trained."""
        return self.model if self.scorer.value_head is None else self.scorer

    def _prepare_stage(self) -> None:
        """Let the stage look at the model as the run starts from it, and complete the examples."""
        fingerprint = {**self.identity.must_match, "compute": str(self.scorer.compute_dtype)}
        setup = Setup(
            self.config,
            self.runtime,
            self.scorer,
            self.renderer,
            fingerprint,
            self.row_tokens,
            self.reporter.say,
            self.folder,
            self.resolved.config_dir,
        )
        self.stage.prepare(setup)
        num_epochs = count_steps(self.store.lengths.tolist(), self.plan, self.config)[1]
        store = with_frozen_states(setup, self.store, num_epochs, learns_from_rows=self.stage.learns_from_rows)
        evals = {name: self.stage.with_numbers(store, setup) for name, store in self.prepared.evals.items()}
        self.prepared = replace(self.prepared, train=self.stage.with_numbers(store, setup), evals=evals)

    def _settle_memory(self, model: Any, compute: torch.dtype) -> None:
        device = self.runtime.device
        need = memory_need(
            model,
            optimizer=self.config.optim,
            row_tokens=self.row_tokens,
            longest_text=int(self.store.lengths.max()),
            compute_dtype=compute,
            device=device,
            plain_formula=self.config.flash_attn == "disabled",
        )
        num_ranks = self.runtime.world_size if device.type == "cpu" else 1
        free_bytes = available_memory_bytes(device)
        self.resolved, lines = decide_checkpointing(self.resolved, need, free_bytes, num_ranks=num_ranks)
        self._say(lines)

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.reporter.say(line)

    def _build_loop(self, start: Path | None, compute: torch.dtype) -> None:
        config, lengths = self.config, self.store.lengths.tolist()
        total_steps, num_epochs = count_steps(lengths, self.plan, config)
        self.optimizer = make_optimizer(self._trained, config, self.reporter.say)
        self.state = TrainerState()
        if start:
            self.state = load_training_state(start, self._trained, self.optimizer)
            self.state.finished = False
        self.stage.state.update(self.state.stage)
        self.state.stage = self.stage.state
        self.state.max_steps, self.state.num_train_epochs = total_steps, num_epochs
        schedule = make_schedule(schedule_spec(config, total_steps))
        plateau = plateau_of(config)
        if plateau is not None:
            vars(plateau).update(self.state.plateau)
        largest = max([self.row_tokens, *(int(store.lengths.max()) for store in self.prepared.evals.values())])
        eval_tokens = min(config.per_device_eval_batch_size * config.cutoff_len, largest)
        evaluator = Evaluator(self.runtime, self.stage, self.prepared.evals, eval_tokens)
        settings = loop_settings(config, total_steps, bool(self.prepared.evals))
        if self.prepared.evals and settings.metric not in evaluator.metric_names:
            raise ConfigError(
                f"`metric_for_best_model: {config.metric_for_best_model}` is not something that is evaluated here",
                where=self.resolved.origins["metric_for_best_model"].where,
                fix=f"choose one of {', '.join(evaluator.metric_names)}",
            )
        scaled = torch.amp.GradScaler(self.runtime.device.type) if compute == torch.float16 else None
        self.loop = Loop(
            self.runtime,
            self.runtime.wrap(self.scorer),
            self.stage,
            self.store,
            self.plan,
            self.optimizer,
            schedule,
            plateau,
            settings,
            self.state,
            self.reporter,
            self if config.save_strategy != "no" else None,
            Interrupt(),
            evaluator if self.prepared.evals else None,
            scaled,
            self.balance,
        )
        rows = f"{self.plan.rows_per_step} {'packs' if self.plan.packing else 'rows'} per step"
        self.reporter.say(
            f"{len(self.store):,} examples, {rows}, {total_steps:,} steps in {num_epochs} epoch(s); rows of up to "
            f"{self.plan.micro_batch_tokens:,} tokens; {str(compute).removeprefix('torch.')} on {self.runtime.device}"
        )

    def _write_head(self) -> None:
        """The files that describe the run, before its first step."""
        if self.runtime.is_main:
            run_folder.write_run_file(self.folder, self.resolved)
            run_folder.write_json(self.folder / run_folder.CONTRACT_FILE, self.renderer.contract())
            base = {"base_weights": self.identity.must_match["base weights"]}
            run_folder.write_json(self.folder / run_folder.BASE_FILE, base)
            self.prepared.ledger.write(self.folder)

    def _train(self) -> int:
        if self.config.eval_on_start and self.loop.evaluator and self.state.global_step == 0:
            self.loop.evaluate()
        try:
            assert isinstance(self.loop.interrupt, Interrupt)
            with self.loop.interrupt:
                finished = self.loop.run()
        except NonFinite as failure:
            suspects = find_suspects(self.scorer, failure.store, failure.members, self.runtime.device)
            intact = not suspects.parameters and not updates_in_backward(self.optimizer)
            if intact and self.loop.saver and self.state.global_step > 0:
                self.save(self.state)
            raise explain(failure, suspects, _precision_key(self.config)) from failure
        if not finished:
            self.reporter.say(
                f"stopped at step {self.state.global_step}; the same command goes on from there", style="bold"
            )
            return EXIT_STOPPED
        with settled_weights(self.optimizer):
            self._finish()
        return 0

    def save(self, state: TrainerState) -> None:
        """Write a checkpoint of the state, then remove the oldest beyond `save_total_limit`."""
        if self.runtime.is_main:
            earlier = [p for p in checkpoints(self.folder) if p.name != f"checkpoint-{state.global_step}"]
            write_checkpoint(self.folder, state.global_step, self._fill_checkpoint, earlier[-1] if earlier else None)
            rotate(self.folder, self.config.save_total_limit, state.best_model_checkpoint)
        self.runtime.wait()

    def _fill_checkpoint(self, part: Path) -> None:
        with settled_weights(self.optimizer):
            self._save_weights(part)
        write_files(part, self.tokenizer_files)
        self.state.write(part)
        run_folder.write_json(part / run_folder.CONTRACT_FILE, self.renderer.contract())
        if not self.config.save_only_model:
            save_training_state(part, self._trained, self.optimizer, self.state, self.identity)

    def _finish(self) -> None:
        """Final evaluation, weights, results, plots and card."""
        metrics: Mapping[str, float] = {}
        if self.config.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best()
        if self.loop.evaluator and self.config.do_eval:
            metrics = self.loop.evaluator.evaluate(self.loop.scorer)
            self.reporter.say("evaluation: " + in_one_line(metrics))
        lines: list[dict[str, Any]] = []
        predicted: Mapping[str, float] = {}
        if self.loop.evaluator and self.config.do_predict and self.config.stage == "rm":
            lines, predicted = predict(self.loop.evaluator, self.loop.scorer)
        if not self.runtime.is_main:
            return
        try:
            save_into(self.folder, self._save_weights, lambda part: write_files(part, self.tokenizer_files))
        except (OSError, SafetensorError) as err:
            raise save_failure(err, self.folder, next(reversed(checkpoints(self.folder)), None)) from err
        write_at_end(self.model, self.config, self.folder)
        self.state.write(self.folder)
        results = training_results(self.state, self.plan, len(self.store), peak_memory_bytes(self.runtime.device))
        if self.config.include_num_input_tokens_seen:
            results["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        if lines:
            write_predictions(self.folder, lines, predicted)
            self.reporter.say(f"prediction: {in_one_line(predicted)}; {len(lines):,} lines in {PREDICTIONS}")
        write_outcome(self.folder, self.config, results, metrics, predicted, self.prepared.ledger.summary_lines())
        if self.config.plot_loss:
            plot_outcome(self.folder, self.state, self.stage.plots)
        self._say(closing_lines(self.resolved, self.folder, results))

    def _load_best(self) -> None:
        best = self.folder / str(self.state.best_model_checkpoint)
        self.reporter.say(f"loading the best checkpoint, {best.name} (best metric {self.state.best_metric:.4f})")
        self._put_back(best)


def _precision_key(config: Config) -> str | None:
    return next((key for key in ("fp16", "bf16", "pure_bf16") if getattr(config, key)), None)
