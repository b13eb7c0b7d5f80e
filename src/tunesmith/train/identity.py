"""What a run's weights depend on, part by part, so that a resume on something else is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tunesmith.config import Config
from tunesmith.config.cast import show
from tunesmith.config.optimizers import describe_state
from tunesmith.config.schema import specs
from tunesmith.config.tokens import new_tokens
from tunesmith.data.plan import PlanSpec
from tunesmith.data.prepare import Prepared
from tunesmith.model.adapters import ADAPTER_WEIGHTS, require_adapter
from tunesmith.model.fingerprint import file_sha256, weights_fingerprint
from tunesmith.model.load import model_folder
from tunesmith.model.quantize import quantization_words
from tunesmith.render import Renderer
from tunesmith.train.checkpoint import Identity

MAY_CHANGE = (
    "learning_rate", "embedding_learning_rate", "loraplus_lr_ratio", "loraplus_lr_embedding", "num_train_epochs",
    "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args",
    "weight_decay", "max_grad_norm", "bf16", "fp16", "pure_bf16", "lora_dropout", "module_dropout",
    "micro_batch_tokens", "neftune_noise_alpha", "shift_attn", "moe_aux_loss_coef", "upcast_layernorm",
    "cache_frozen_layers",
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
        "base weights": _base_weights(config),
        **{f"adapter {name}": file_sha256(Path(name) / ADAPTER_WEIGHTS) for name in config.adapter_name_or_path},
        "method": _method(config) + _base_precision(config),
        "optimizer": describe_state(config),
        **({"positions": f"rope_scaling {config.rope_scaling}"} if config.rope_scaling else {}),
        **{f"description of {token}": text for token, text in new_tokens(config).descriptions.items()},
        "batch layout": _layout(plan),
    }
    may_change = {key: str(getattr(config, key)) for key in (*MAY_CHANGE, *_of_stage(config))}
    return Identity(must_match, {**may_change, "number of ranks": str(plan.world_size)})


def _of_stage(config: Config) -> list[str]:
    """What the stage's loss, reference and rewards depend on."""
    return [name for name, spec in specs().items() if spec.group.name == "rlhf" and config.stage in spec.stages]


def _base_weights(config: Config) -> str:
    """The fingerprint of the weights that training starts from."""
    if config.train_from_scratch:
        return f"random, seed {config.seed}"
    return weights_fingerprint(model_folder(config))


def _layout(plan: PlanSpec) -> str:
    """What of the plan decides which examples are in which step."""
    kind = f"packs of {plan.pack_tokens} tokens" if plan.packing else "rows"
    order = f"shuffled with seed {plan.seed}" if plan.shuffle else "in file order"
    return f"{plan.rows_per_step} {kind} per step, {order}"


def _method(config: Config) -> str:
    """What is trained, in words that a refusal can show."""
    words = {
        "lora": f"lora of rank {config.lora_rank}, alpha {config.lora_alpha} on {', '.join(config.lora_target)}",
        "oft": f"oft of rank {config.oft_rank}, blocks of {config.oft_block_size} on {', '.join(config.oft_target)}",
        "freeze": f"freeze, {config.freeze_trainable_layers} layers, {', '.join(config.freeze_trainable_modules)}",
        "full": "full",
    }[config.finetuning_type]
    over = "".join(f" over {Path(adapter).name}" for adapter in config.adapter_name_or_path)
    further = [f"{key} {show(getattr(config, key))}" for key in _further_keys(config) if not _is_default(config, key)]
    return ", ".join([words + over, *further])


def _further_keys(config: Config) -> tuple[str, ...]:
    """What else decides which numbers are trained and from where they start; named when it is not the default."""
    if config.finetuning_type == "full":
        return _TOKENS
    if config.finetuning_type == "freeze":
        return ("freeze_extra_modules", "use_llama_pro", *_TOKENS)
    if config.finetuning_type == "oft":
        return ("additional_target", "create_new_adapter", *_TOKENS)
    pissa = ("pissa_init", "pissa_iter") if config.pissa_init else ()
    loftq = ("loftq_init", "loftq_bits", "loftq_iter") if config.loftq_init else ()
    pro = ("use_llama_pro", "freeze_trainable_layers") if config.use_llama_pro else ()
    return (*_LORA, *pissa, *loftq, *pro, *_TOKENS)


_LORA = (
    "additional_target", "create_new_adapter", "rank_pattern", "alpha_pattern", "lora_layers", "use_rslora", "use_dora"
)  # fmt: skip
_TOKENS = ("resize_vocab", "init_special_tokens")


def _is_default(config: Config, key: str) -> bool:
    return bool(getattr(config, key) == specs()[key].default)


def _base_precision(config: Config) -> str:
    """In how many bits the base model computes, as the end of the method."""
    words = quantization_words(config)
    return f", base in {words}" if words else ""
