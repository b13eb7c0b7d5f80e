"""Which settings may stand together, and which capabilities exist: every rule is one row with a name and a message.

Rules are checked on the effective configuration, after decisions. A rule concerns the verbs it names, so a training
file can be given to `chat` or `export` although it breaks a rule of training. `NOTES` are rows of the same form for
settings that are harmless but probably not what was meant.
"""

from __future__ import annotations

from typing import Any

from tunesmith.config.cast import show
from tunesmith.config.export_rules import EXPORT_NOTES, EXPORT_RULES
from tunesmith.config.load import Loaded
from tunesmith.config.optimizers import optimizer_options
from tunesmith.config.quantization_rules import QUANTIZATION_NOTES, QUANTIZATION_RULES
from tunesmith.config.rule import MODEL_VERBS, Note, Rule
from tunesmith.config.rules_methods import METHOD_NOTES, METHOD_RULES
from tunesmith.config.rules_optimizers import OPTIMIZER_NOTES, OPTIMIZER_RULES
from tunesmith.config.rules_preferences import PREFERENCE_NOTES, PREFERENCE_RULES
from tunesmith.config.rules_rewards import REWARD_NOTES, REWARD_RULES
from tunesmith.config.schedules import schedule_options
from tunesmith.config.schema import Config, specs
from tunesmith.config.spec import FieldSpec
from tunesmith.errors import ConfigError


def _evaluates(c: Config) -> bool:
    return c.do_eval or c.do_predict or c.eval_strategy != "no"


def _has_eval_data(c: Config) -> bool:
    return bool(c.eval_dataset) or c.val_size > 0


RULES: tuple[Rule, ...] = (
    Rule(
        "a model is named",
        ("model_name_or_path",),
        lambda c, g: not c.model_name_or_path,
        "no model is named",
        "set model_name_or_path to the folder of a model",
        MODEL_VERBS,
    ),
    Rule(
        "a run has a folder",
        ("output_dir",),
        lambda c, g: not c.output_dir,
        "no output folder is named",
        "set output_dir to a new folder, such as output_dir: saves/first-run",
    ),
    Rule(
        "something is to be done",
        ("do_train",),
        lambda c, g: not (c.do_train or c.do_eval),
        "nothing is to be done: do_train and do_eval are both false",
        "set do_train: true",
    ),
    Rule(
        "training has data",
        ("do_train", "dataset"),
        lambda c, g: c.do_train and not c.dataset,
        "there is nothing to train on: dataset is not set",
        "set dataset to names of dataset_info.json, or to the path of a data file",
    ),
    Rule(
        "a held-out share has data to be taken from",
        ("val_size", "dataset"),
        lambda c, g: c.val_size > 0 and not c.dataset,
        "val_size is {val_size}, but dataset is not set",
        "set dataset, or use eval_dataset instead of val_size",
    ),
    Rule(
        "a held-out share below 1 or a whole number of rows",
        ("val_size",),
        lambda c, g: c.val_size > 1 and not float(c.val_size).is_integer(),
        "val_size is {val_size}: above 1 it is a number of rows",
        "give a whole number, or a share below 1",
    ),
    Rule(
        "evaluation data from one source",
        ("val_size", "eval_dataset"),
        lambda c, g: c.val_size > 0 and bool(c.eval_dataset),
        "val_size and eval_dataset are both set",
        "keep eval_dataset and set val_size: 0, or the other way round",
    ),
    Rule(
        "evaluation has data",
        ("eval_strategy", "do_eval", "do_predict", "eval_dataset", "val_size"),
        lambda c, g: _evaluates(c) and not _has_eval_data(c),
        "there is nothing to evaluate on: neither eval_dataset nor val_size is set",
        "set val_size: 0.1 to hold out a tenth of the rows, or name an eval_dataset",
    ),
    Rule(
        "separate evaluation needs evaluation datasets",
        ("eval_on_each_dataset", "eval_dataset"),
        lambda c, g: c.eval_on_each_dataset and not _has_eval_data(c),
        "eval_on_each_dataset is set, but there is no evaluation data",
        "set eval_dataset",
    ),
    Rule(
        "the best model is known by evaluation",
        ("load_best_model_at_end", "eval_strategy"),
        lambda c, g: c.load_best_model_at_end and c.eval_strategy == "no",
        "load_best_model_at_end needs evaluations during training, but eval_strategy is no",
        "set eval_strategy: steps or epoch",
    ),
    Rule(
        "the best model is saved",
        ("load_best_model_at_end", "save_strategy"),
        lambda c, g: c.load_best_model_at_end and c.save_strategy == "no",
        "load_best_model_at_end needs checkpoints, but save_strategy is no",
        "set save_strategy: steps or epoch",
    ),
    Rule(
        "early stopping needs evaluation",
        ("early_stopping_steps", "eval_strategy"),
        lambda c, g: c.early_stopping_steps is not None and c.eval_strategy == "no",
        "early_stopping_steps counts evaluations, but eval_strategy is no",
        "set eval_strategy: steps or epoch",
    ),
    Rule(
        "the metric of the best model is measured",
        ("metric_for_best_model", "compute_accuracy"),
        lambda c, g: (
            c.stage in ("pt", "sft") and (c.metric_for_best_model or "").endswith("accuracy") and not c.compute_accuracy
        ),
        "metric_for_best_model is {metric_for_best_model}, but accuracy is not measured",
        "set compute_accuracy: true, or metric_for_best_model: loss",
    ),
    Rule(
        "one half precision",
        ("fp16", "bf16", "pure_bf16"),
        lambda c, g: c.fp16 and (c.bf16 or c.pure_bf16),
        "fp16 and bf16 are both set",
        "keep bf16: true where the device has it, otherwise fp16: true",
    ),
    Rule(
        "one way to mask the prompt",
        ("mask_history", "train_on_prompt"),
        lambda c, g: c.mask_history and c.train_on_prompt,
        "mask_history and train_on_prompt contradict each other",
        "set one of them to false",
    ),
    Rule(
        "adapters belong to LoRA",
        ("adapter_name_or_path", "finetuning_type"),
        lambda c, g: bool(c.adapter_name_or_path) and c.finetuning_type not in ("lora", "oft"),
        "adapter_name_or_path is set, but finetuning_type is {finetuning_type}",
        "set finetuning_type: lora, or merge the adapter first with `tunesmith export` and train the merged model",
        MODEL_VERBS,
    ),
    Rule(
        "gradient checkpointing on or off",
        ("gradient_checkpointing", "disable_gradient_checkpointing"),
        lambda c, g: bool(c.gradient_checkpointing) and c.disable_gradient_checkpointing,
        "gradient_checkpointing and disable_gradient_checkpointing are both true",
        "keep one of them",
    ),
    Rule(
        "offloading checkpointing on or off",
        ("use_unsloth_gc", "disable_gradient_checkpointing"),
        lambda c, g: c.use_unsloth_gc and (c.disable_gradient_checkpointing or c.gradient_checkpointing is False),
        "use_unsloth_gc asks for gradient checkpointing, which is switched off",
        "keep one of them",
    ),
    Rule(
        "random weights are all trained",
        ("train_from_scratch", "finetuning_type"),
        lambda c, g: c.train_from_scratch and c.finetuning_type != "full",
        "train_from_scratch starts from random weights, of which finetuning_type {finetuning_type} would leave most "
        "as they are",
        "set finetuning_type: full, or train_from_scratch: false",
    ),
    Rule(
        "shifted attention chooses its kernel",
        ("shift_attn", "flash_attn"),
        lambda c, g: c.shift_attn and c.flash_attn == "disabled",
        "shift_attn and flash_attn: disabled contradict each other",
        "set flash_attn: auto",
    ),
    Rule(
        "frozen training trains something",
        ("freeze_trainable_layers", "freeze_extra_modules"),
        lambda c, g: c.finetuning_type == "freeze" and c.freeze_trainable_layers == 0 and not c.freeze_extra_modules,
        "freeze_trainable_layers is 0: nothing would be trained",
        "set it to the number of last layers to train",
    ),
    Rule(
        "a run is continued or begun",
        ("overwrite_output_dir", "resume_from_checkpoint"),
        lambda c, g: c.overwrite_output_dir and c.resume_from_checkpoint is True,
        "overwrite_output_dir starts anew, resume_from_checkpoint: true goes on",
        "keep one of them",
    ),
    Rule(
        "a length limit for answers",
        ("max_new_tokens", "max_length"),
        lambda c, g: c.max_new_tokens == 0 and "max_length" not in g,
        "max_new_tokens is 0 and max_length is not set",
        "set max_new_tokens to the longest answer in tokens",
        ("chat", "webchat", "api"),
    ),
    Rule(
        "an export has a folder",
        ("export_dir",),
        lambda c, g: not c.export_dir,
        "no export folder is named",
        "set export_dir to a new folder",
        ("export",),
    ),
    *OPTIMIZER_RULES,
    *METHOD_RULES,
    *REWARD_RULES,
    *QUANTIZATION_RULES,
    *EXPORT_RULES,
    *PREFERENCE_RULES,
)


NOTES: tuple[Note, ...] = (
    Note(
        "checkpointing without offloading",
        lambda c, g: c.use_unsloth_gc,
        "use_unsloth_gc: the built-in gradient checkpointing is used; it keeps the inputs of the layers on the device",
    ),
    Note(
        "steps replace epochs",
        lambda c, g: c.max_steps > 0 and "num_train_epochs" in g,
        "max_steps is {max_steps} and replaces num_train_epochs ({num_train_epochs})",
    ),
    Note(
        "no evaluation interval without a strategy",
        lambda c, g: "eval_steps" in g and c.eval_strategy != "steps",
        "eval_steps has no effect while eval_strategy is {eval_strategy}; set eval_strategy: steps to use it",
    ),
    Note(
        "no save interval without a strategy",
        lambda c, g: "save_steps" in g and c.save_strategy != "steps",
        "save_steps has no effect while save_strategy is {save_strategy}",
    ),
    Note(
        "a run without optimizer cannot be resumed",
        lambda c, g: c.save_only_model,
        "save_only_model: checkpoints of this run can be used but not resumed; set it to false to be able to go on",
    ),
    Note(
        "the same rows in both sets",
        lambda c, g: bool(set(c.dataset) & set(c.eval_dataset)),
        "the same dataset is trained on and evaluated on: the evaluation will look better than it is",
    ),
    Note(
        "a new adapter on nothing",
        lambda c, g: c.create_new_adapter and not c.adapter_name_or_path,
        "create_new_adapter has no effect: adapter_name_or_path is not set",
    ),
    Note(
        "warmup as long as the run",
        lambda c, g: 0 < c.max_steps <= c.warmup_steps,
        "warmup_steps ({warmup_steps}) is not below max_steps ({max_steps}): the learning rate never reaches its top",
    ),
    Note(
        "evaluation data without evaluation",
        lambda c, g: _has_eval_data(c) and not _evaluates(c),
        "there is evaluation data, but do_eval is false and eval_strategy is no: it is not used",
    ),
    *OPTIMIZER_NOTES,
    *METHOD_NOTES,
    *REWARD_NOTES,
    *QUANTIZATION_NOTES,
    *EXPORT_NOTES,
    *PREFERENCE_NOTES,
)


def check_rules(config: Config, loaded: Loaded, verb: str) -> list[ConfigError]:
    """The rules of `verb` that the configuration breaks, as errors ready to raise."""
    given = frozenset(loaded.values)
    broken = [
        ConfigError(rule.what.format(**config.__dict__), where=_where(rule.keys, loaded), fix=rule.fix)
        for rule in RULES
        if verb in rule.verbs and rule.broken(config, given)
    ]
    return broken + (_argument_errors(config, loaded) if verb == "train" and not broken else [])


def _argument_errors(config: Config, loaded: Loaded) -> list[ConfigError]:
    """What is wrong inside `optim_args` and `lr_scheduler_kwargs`."""
    errors = []
    for key, check in (
        ("optim_args", lambda: optimizer_options(config)),
        (
            "lr_scheduler_kwargs",
            lambda: schedule_options(config.lr_scheduler_type, config.lr_scheduler_kwargs, config.learning_rate),
        ),
    ):
        try:
            check()
        except ConfigError as err:
            err.where = err.where or _where((key,), loaded)
            errors.append(err)
    return errors


def notes_on_use(config: Config, loaded: Loaded, verb: str) -> list[str]:
    """What the user should know about settings that are accepted: keys without effect, and the rows of `NOTES`."""
    given = frozenset(loaded.values)
    notes = [*_noop_notes(loaded, verb), *_unused_notes(config, loaded, verb)]
    notes += [
        note.text.format(**config.__dict__) for note in NOTES if verb in note.verbs and note.applies(config, given)
    ]
    return notes


def check_availability(loaded: Loaded, verb: str) -> list[ConfigError]:
    """Errors for given keys whose capability does not exist yet, as far as `verb` would use them."""
    errors = []
    for name, value in loaded.values.items():
        spec = specs()[name]
        if spec.read_by(verb):
            error = _unavailable(spec, value, loaded.settings[name].where)
            if error:
                errors.append(error)
    return errors


def _unavailable(spec: FieldSpec, value: Any, where: str) -> ConfigError | None:
    default = show(spec.default)
    if spec.later and value is not None and value != spec.default and value not in spec.off and value != ():
        given = "***" if spec.secret else show(value)
        return ConfigError(
            f"{spec.name}: {given} is not yet available",
            where=where,
            fix=f"{spec.later}; remove {spec.name} or leave it at {default}",
        )
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str) and item in spec.later_choices:
            return ConfigError(
                f"{spec.name}: {item} is not yet available",
                where=where,
                fix=spec.later_choices[item],
            )
    return None


def _noop_notes(loaded: Loaded, verb: str) -> list[str]:
    """One line per reason, naming the keys that it concerns."""
    by_reason: dict[str, list[str]] = {}
    for name, value in loaded.values.items():
        spec = specs()[name]
        if spec.noop and value != spec.default and spec.read_by(verb):
            by_reason.setdefault(spec.noop, []).append(name)
    return [f"{', '.join(names)}: changes nothing here; {reason}" for reason, names in by_reason.items()]


def _unused_notes(config: Config, loaded: Loaded, verb: str) -> list[str]:
    """A line each for the given keys that the chosen finetuning type, and the chosen stage, do not read."""
    if verb != "train":
        return []
    changed = [specs()[name] for name, value in loaded.values.items() if value != specs()[name].default]
    by_method = [s.name for s in changed if s.methods and config.finetuning_type not in s.methods]
    by_stage = [s.name for s in changed if s.stages and config.stage not in s.stages]
    notes = [f"{', '.join(by_method)}: not read by finetuning_type {config.finetuning_type}"] if by_method else []
    return notes + ([f"{', '.join(by_stage)}: not read by stage {config.stage}"] if by_stage else [])


def _where(keys: tuple[str, ...], loaded: Loaded) -> str:
    """The places where the keys were written; the file when none of them was."""
    written = [loaded.settings[key] for key in keys if key in loaded.settings]
    places = [f"{each.where}, {each.key}" if each.kind == "file" else each.where for each in written]
    if places:
        return "; ".join(places)
    return str(loaded.config_file) if loaded.config_file else "the command line"
