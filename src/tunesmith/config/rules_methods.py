"""Which settings of the training methods may stand together: rows of `rules.RULES` and `rules.NOTES`."""

from __future__ import annotations

from tunesmith.config.rule import Note, Rule
from tunesmith.config.schema import Config

SHAPE_KEYS = frozenset(
    ("lora_rank", "lora_alpha", "lora_target", "lora_layers", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
     "additional_target", "oft_rank", "oft_block_size", "oft_target")
)  # fmt: skip
"""Keys that shape a new adapter; one that is continued has its shape already."""


def _continues(c: Config) -> bool:
    return c.trains_adapter and bool(c.adapter_name_or_path) and not c.create_new_adapter


def _changes_base(c: Config) -> bool:
    """Whether the base's own values are no longer those of the model's files."""
    return c.finetuning_type == "lora" and (c.pissa_init or (c.loftq_init and c.quantization_bit is None))


METHOD_RULES: tuple[Rule, ...] = (
    Rule(
        "added blocks are trained by lora or freeze",
        ("use_llama_pro", "finetuning_type"),
        lambda c, g: c.use_llama_pro and c.finetuning_type not in ("lora", "freeze"),
        "use_llama_pro trains added blocks only, but finetuning_type is {finetuning_type}",
        "set finetuning_type: freeze (or lora), or use_llama_pro: false",
    ),
    Rule(
        "added blocks or numbered layers",
        ("use_llama_pro", "lora_layers"),
        lambda c, g: c.finetuning_type == "lora" and c.use_llama_pro and bool(c.lora_layers),
        "use_llama_pro and lora_layers both say which layers get an adapter",
        "keep one of them",
    ),
    Rule(
        "one start for an adapter",
        ("pissa_init", "loftq_init"),
        lambda c, g: c.pissa_init and c.loftq_init,
        "pissa_init and loftq_init are two different starts",
        "keep one of them",
    ),
    Rule(
        "PiSSA without DoRA",
        ("pissa_init", "use_dora"),
        lambda c, g: c.finetuning_type == "lora" and c.pissa_init and c.use_dora,
        "pissa_init with use_dora: the magnitudes of DoRA belong to the residual weights, so the adapter could not be "
        "written for the model as it is",
        "keep one of them",
    ),
    Rule(
        "a start is for a new adapter",
        ("adapter_name_or_path", "pissa_init", "loftq_init"),
        lambda c, g: _continues(c) and (c.pissa_init or c.loftq_init),
        "pissa_init and loftq_init start a new adapter, but adapter_name_or_path is continued",
        "set create_new_adapter: true to merge the adapter and start anew, or remove the start",
    ),
    Rule(
        "a changed base is no reference",
        ("ref_policy", "pissa_init", "loftq_init"),
        lambda c, g: _changes_base(c) and c.ref_policy == "base",
        "ref_policy is base, but pissa_init and loftq_init change the base: without its adapter it is another model",
        "set ref_policy: start, which is the same policy here, or name the model as ref_model",
    ),
    Rule(
        "OFT blocks by number or by size",
        ("oft_rank", "oft_block_size"),
        lambda c, g: c.finetuning_type == "oft" and (c.oft_rank > 0) == (c.oft_block_size > 0),
        "oft_rank is {oft_rank} and oft_block_size is {oft_block_size}: one is a layer's inputs divided by the other",
        "set one of them, and leave the other out or at 0",
    ),
    Rule(
        "an expansion has a model, a folder and a number",
        ("model_name_or_path", "output_dir", "num_expand"),
        lambda c, g: not (c.model_name_or_path and c.output_dir and c.num_expand),
        "expanding needs model_name_or_path, output_dir and num_expand",
        "name the model, a new folder, and the number of blocks to add",
        ("expand",),
    ),
)

METHOD_NOTES: tuple[Note, ...] = (
    Note(
        "a continued adapter has its shape",
        lambda c, g: _continues(c) and bool(g & SHAPE_KEYS),
        "the adapter that is continued keeps its rank, targets and scale; settings of these are not read "
        "(create_new_adapter: true merges it and trains a new one)",
    ),
    Note(
        "a count of layers without their use",
        lambda c, g: c.finetuning_type == "lora" and "freeze_trainable_layers" in g and not c.use_llama_pro,
        "freeze_trainable_layers has no effect with finetuning_type lora, unless use_llama_pro is set",
    ),
    Note(
        "PiSSA settings without PiSSA",
        lambda c, g: not c.pissa_init and (c.pissa_convert or "pissa_iter" in g),
        "pissa_iter and pissa_convert have no effect: pissa_init is not set",
    ),
    Note(
        "LoftQ settings without LoftQ",
        lambda c, g: not c.loftq_init and bool(g & {"loftq_bits", "loftq_iter"}),
        "loftq_bits and loftq_iter have no effect: loftq_init is not set",
    ),
    Note(
        "two targets of OFT",
        lambda c, g: c.finetuning_type == "oft" and "oft_target" in g and "lora_target" in g,
        "oft_target is used; lora_target is not read beside it",
    ),
    Note(
        "special tokens named twice",
        lambda c, g: bool(c.add_special_tokens) and c.new_special_tokens_config is not None,
        "new_special_tokens_config replaces add_special_tokens, which is not read",
    ),
    Note(
        "descriptions that are not there",
        lambda c, g: c.init_special_tokens != "noise_init" and c.new_special_tokens_config is None,
        "init_special_tokens: {init_special_tokens} has no effect: new_special_tokens_config gives no descriptions",
    ),
)
