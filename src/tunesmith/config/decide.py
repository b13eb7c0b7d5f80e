"""What a configuration leaves open and its other keys settle, each with the reason that `config show` prints.

A decision fills what the user left unset, or resolves two keys that the public tools also resolve; it never overrides
a value in silence. The order of the table matters where one decision reads another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tunesmith.config.rules_preferences import EXO_LABEL_SMOOTHING
from tunesmith.config.schedules import WATCHING

SAMPLING_STAGES = ("ppo", "grpo")
"""Stages that learn from rewarded answers of their own."""


@dataclass
class Facts:
    """The values so far, which keys the user set, and the reasons of what was decided."""

    values: dict[str, Any]
    given: frozenset[str]
    verb: str
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def decide(self, key: str, value: Any, why: str) -> None:
        """Set `key` to `value`; recorded only when that changes anything."""
        if self.values[key] != value:
            self.values[key], self.reasons[key] = value, why


def _lora_alpha(facts: Facts) -> None:
    if facts["lora_alpha"] is None:
        facts.decide("lora_alpha", 2 * facts["lora_rank"], "twice lora_rank")


def _label_smoothing(facts: Facts) -> None:
    if facts["stage"] == "dpo" and facts["pref_loss"] == "exo_pair" and "dpo_label_smoothing" not in facts.given:
        facts.decide("dpo_label_smoothing", EXO_LABEL_SMOOTHING, "pref_loss exo_pair needs one above 0; the paper's")


def _oft(facts: Facts) -> None:
    if facts["oft_rank"] > 0 and "oft_block_size" not in facts.given:
        facts.decide("oft_block_size", 0, "oft_rank sets the number of blocks, and with it their size")
    if facts["finetuning_type"] == "oft" and "oft_target" not in facts.given and "lora_target" in facts.given:
        facts.decide("oft_target", facts["lora_target"], "as lora_target, which the public tool reads for OFT")


def _new_tokens(facts: Facts) -> None:
    if facts["add_tokens"] or facts["add_special_tokens"] or facts["new_special_tokens_config"]:
        facts.decide("resize_vocab", True, "new tokens need rows in the embeddings")


def _packing(facts: Facts) -> None:
    if facts["neat_packing"]:
        facts.decide("packing", True, "neat_packing asks for it")
    elif facts["packing"] is None:
        facts.decide("packing", facts["stage"] == "pt", f"the usual choice for stage {facts['stage']}")


def _train(facts: Facts) -> None:
    asked = "do_train" in facts.given or facts["do_eval"] or facts["do_predict"]
    if facts.verb == "train" and not asked:
        facts.decide("do_train", True, "the verb is train and nothing else is asked for")


def _predict(facts: Facts) -> None:
    if facts.verb == "predict":
        facts.decide("do_predict", True, "the verb is predict")
    generates = facts["do_predict"] and facts["stage"] != "rm"
    if generates and "predict_with_generate" not in facts.given:
        facts.decide("predict_with_generate", True, f"do_predict answers the rows of stage {facts['stage']}")


def _evaluate(facts: Facts) -> None:
    has_data = bool(facts["eval_dataset"]) or facts["val_size"] > 0
    if facts["eval_strategy"] != "no":
        facts.decide("do_eval", True, f"eval_strategy is {facts['eval_strategy']}")
    elif has_data and facts.verb == "train" and facts["do_train"] and "do_eval" not in facts.given:
        facts.decide("do_eval", True, "there is evaluation data; it is evaluated once, when training ends")


def _eval_steps(facts: Facts) -> None:
    if facts["eval_steps"] is None and facts["eval_strategy"] == "steps":
        facts.decide("eval_steps", facts["logging_steps"], "as logging_steps")


def _eval_batch(facts: Facts) -> None:
    if "per_device_eval_batch_size" not in facts.given:
        facts.decide("per_device_eval_batch_size", facts["per_device_train_batch_size"], "as the training batch")


def _best(facts: Facts) -> None:
    watches = (
        facts["load_best_model_at_end"]
        or facts["early_stopping_steps"] is not None
        or facts["lr_scheduler_type"] in WATCHING
        or (facts["save_best"] and facts["eval_strategy"] != "no")
    )
    by_reward = facts["stage"] in SAMPLING_STAGES
    if (watches or by_reward) and facts["metric_for_best_model"] is None:
        metric, why = ("reward", "is what the stage raises") if by_reward else ("loss", "is the usual measure")
        facts.decide("metric_for_best_model", metric, f"the evaluation {metric} {why}")
    metric = facts["metric_for_best_model"]
    if metric is not None and facts["greater_is_better"] is None:
        falls = metric.endswith(("loss", "perplexity", "kl"))
        facts.decide("greater_is_better", not falls, f"metric_for_best_model is {metric}")


def _warmup(facts: Facts) -> None:
    steps = facts["warmup_steps"]
    if 0 < steps < 1:
        facts.decide("warmup_ratio", float(steps), "warmup_steps below 1 is a share of all steps")
        facts.decide("warmup_steps", 0, "given as a share; see warmup_ratio")
    elif steps >= 1:
        facts.decide("warmup_steps", int(steps), "a whole number of steps")
        facts.decide("warmup_ratio", 0.0, "warmup_steps is set and takes precedence")


def _schedule_free(facts: Facts) -> None:
    if facts["optim"].startswith("schedule_free_") and "lr_scheduler_type" not in facts.given:
        facts.decide("lr_scheduler_type", "constant", f"optim {facts['optim']} takes the place of a schedule")


def _checkpointing(facts: Facts) -> None:
    if facts["disable_gradient_checkpointing"] and facts["gradient_checkpointing"] is None:
        facts.decide("gradient_checkpointing", False, "disable_gradient_checkpointing is set")
    elif facts["use_unsloth_gc"] and facts["gradient_checkpointing"] is None:
        facts.decide("gradient_checkpointing", True, "use_unsloth_gc asks for it")


def _data_seed(facts: Facts) -> None:
    if facts["data_seed"] is None:
        facts.decide("data_seed", facts["seed"], "as seed")


def _policy_sampling(facts: Facts) -> None:
    """The defaults of chatting are for chatting: what is learnt from must be drawn from the policy itself."""
    samples = facts["stage"] in SAMPLING_STAGES or (facts["stage"] == "gkd" and facts["gkd_lambda"] > 0)
    if facts.verb != "train" or not samples:
        return
    for key, value in (("temperature", 1.0), ("top_p", 1.0), ("top_k", 0)):
        if key not in facts.given:
            facts.decide(key, value, f"stage {facts['stage']} learns from answers drawn from the policy itself")


def _home(facts: Facts) -> None:
    for key in ("model_name_or_path", "dataset_dir", "media_dir", "output_dir", "export_dir"):
        value = facts[key]
        if isinstance(value, str) and value.startswith("~"):
            facts.decide(key, os.path.expanduser(value), "~ is the home folder")
    adapters = tuple(os.path.expanduser(name) for name in facts["adapter_name_or_path"])
    facts.decide("adapter_name_or_path", adapters, "~ is the home folder")


DECISIONS: tuple[Callable[[Facts], None], ...] = (
    _lora_alpha,
    _label_smoothing,
    _oft,
    _new_tokens,
    _packing,
    _train,
    _predict,
    _evaluate,
    _eval_steps,
    _eval_batch,
    _schedule_free,
    _best,
    _warmup,
    _checkpointing,
    _data_seed,
    _policy_sampling,
    _home,
)
"""In the order in which they are taken."""
