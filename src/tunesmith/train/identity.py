"""What a run's weights depend on, part by part, so that a resume on something else is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tunesmith.config import Config
from tunesmith.data.plan import PlanSpec
from tunesmith.data.prepare import Prepared
from tunesmith.model.adapters import ADAPTER_WEIGHTS, require_adapter
from tunesmith.model.fingerprint import file_sha256, weights_fingerprint
from tunesmith.model.load import model_folder
from tunesmith.model.quantize import quantization_words
from tunesmith.render import Renderer
from tunesmith.train.checkpoint import Identity

MAY_CHANGE = (
    "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "optim",
    "weight_decay", "max_grad_norm", "bf16", "fp16", "pure_bf16", "lora_dropout", "micro_batch_tokens",
)  # fmt: skip
"""A resumed run may differ in these; it is said, and the result is then no longer that of an unbroken run."""


def identify(config: Config, renderer: Renderer, prepared: Prepared, plan: PlanSpec) -> Identity:
    """Fingerprints of data, template, tokenizer and base weights; method and batch layout in words."""
    for name in config.adapter_name_or_path:
        require_adapter(Path(name))
    contract = renderer.contract()
    template = json.dumps({k: v for k, v in contract.items() if k != "tokenizer_sha256"}, sort_keys=True)
    must_match = {
        **{f"data {name}": value for name, value in prepared.fingerprint.items()},
        "template": f"{renderer.template_name}:{hashlib.sha256(template.encode()).hexdigest()}",
        "tokenizer": contract["tokenizer_sha256"],
        "base weights": weights_fingerprint(model_folder(config)),
        **{f"adapter {name}": file_sha256(Path(name) / ADAPTER_WEIGHTS) for name in config.adapter_name_or_path},
        "method": _method(config) + _base_precision(config),
        "batch layout": _layout(plan),
    }
    may_change = {key: str(getattr(config, key)) for key in MAY_CHANGE}
    return Identity(must_match, {**may_change, "number of ranks": str(plan.world_size)})


def _layout(plan: PlanSpec) -> str:
    """What of the plan decides which examples are in which step."""
    kind = f"packs of {plan.pack_tokens} tokens" if plan.packing else "rows"
    order = f"shuffled with seed {plan.seed}" if plan.shuffle else "in file order"
    return f"{plan.rows_per_step} {kind} per step, {order}"


def _method(config: Config) -> str:
    """What is trained, in words that a refusal can show."""
    if config.finetuning_type == "lora":
        names = ", ".join((*config.lora_target, *config.additional_target))
        over = "".join(f" over {Path(adapter).name}" for adapter in config.adapter_name_or_path)
        return f"lora of rank {config.lora_rank}, alpha {config.lora_alpha} on {names}{over}"
    if config.finetuning_type == "freeze":
        modules = ", ".join((*config.freeze_trainable_modules, *config.freeze_extra_modules))
        return f"freeze, {config.freeze_trainable_layers} layers, {modules}"
    return config.finetuning_type


def _base_precision(config: Config) -> str:
    """In how many bits the base model computes, as the end of the method."""
    words = quantization_words(config)
    return f", base in {words}" if words else ""
