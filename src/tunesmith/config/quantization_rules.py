"""Which settings may stand beside `quantization_bit`: rows of `rules.RULES` and `rules.NOTES`.

A quantized weight takes no update and gives none back: only adapters beside it are trained, and nothing is merged
into it. The same holds for folders that are stored quantized; those are checked where the folder is read.
"""

from __future__ import annotations

from tunesmith.config.fields.quantization import BITS_OF_METHOD, STORED_ONLY
from tunesmith.config.rule import Note, Rule
from tunesmith.config.schema import Config

_USE = ("train", "chat", "webchat", "api", "eval")
_ON_LOAD = ", ".join(BITS_OF_METHOD)


def _quantized(c: Config) -> bool:
    return c.quantization_bit is not None


def _not_bnb_4(c: Config) -> bool:
    """Whether a key that only bitsandbytes reads, and only at 4 bits, has nothing to act on."""
    return _quantized(c) and (c.quantization_method, c.quantization_bit) != ("bnb", 4)


QUANTIZATION_RULES: tuple[Rule, ...] = (
    Rule(
        "the method quantizes while loading",
        ("quantization_method", "quantization_bit"),
        lambda c, g: _quantized(c) and c.quantization_method in STORED_ONLY,
        "quantization_method {quantization_method} cannot quantize a model while it is loaded",
        f"set quantization_method to one of {_ON_LOAD}; a folder that is stored in this format needs neither "
        "quantization_method nor quantization_bit",
        _USE,
    ),
    Rule(
        "the method has the bits",
        ("quantization_bit", "quantization_method"),
        lambda c, g: _quantized(c) and c.quantization_bit not in BITS_OF_METHOD.get(c.quantization_method, range(99)),
        "quantization_method {quantization_method} has no {quantization_bit} bits",
        "the bits are " + "; ".join(f"{name}: {', '.join(map(str, bits))}" for name, bits in BITS_OF_METHOD.items()),
        _USE,
    ),
    Rule(
        "a quantized base is trained through adapters",
        ("finetuning_type", "quantization_bit"),
        lambda c, g: _quantized(c) and c.finetuning_type not in ("lora", "oft"),
        "finetuning_type is {finetuning_type}, but weights in {quantization_bit} bits cannot be updated",
        "set finetuning_type: lora, or remove quantization_bit",
    ),
    Rule(
        "PiSSA needs weights that can be changed",
        ("pissa_init", "quantization_bit"),
        lambda c, g: _quantized(c) and c.pissa_init,
        "pissa_init moves a part of each weight into the adapter, but weights in {quantization_bit} bits cannot change",
        "remove pissa_init, or quantization_bit",
    ),
    Rule(
        "a quantized model keeps its vocabulary",
        ("resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config", "quantization_bit"),
        lambda c, g: (
            _quantized(c)
            and bool(c.resize_vocab or c.add_tokens or c.add_special_tokens or c.new_special_tokens_config)
        ),
        "the vocabulary of a model in {quantization_bit} bits is not resized",
        "remove quantization_bit, or add the tokens first in a run without it and train on its export",
    ),
    Rule(
        "one adapter on a quantized base",
        ("adapter_name_or_path", "quantization_bit"),
        lambda c, g: _quantized(c) and len(c.adapter_name_or_path) > 1,
        "all adapters but the last are merged into the base, but nothing is merged into weights in "
        "{quantization_bit} bits",
        "name one adapter, or remove quantization_bit",
        _USE,
    ),
    Rule(
        "an adapter on a quantized base is continued",
        ("create_new_adapter", "adapter_name_or_path", "quantization_bit"),
        lambda c, g: _quantized(c) and c.create_new_adapter and bool(c.adapter_name_or_path),
        "create_new_adapter merges the given adapter into the base, but nothing is merged into weights in "
        "{quantization_bit} bits",
        "set create_new_adapter: false to train the adapter further, or remove quantization_bit",
    ),
    Rule(
        "a spread model is not trained",
        ("quantization_device_map",),
        lambda c, g: c.quantization_device_map is not None,
        "quantization_device_map: {quantization_device_map} spreads a model for inference; it cannot be trained so",
        "remove quantization_device_map; to train on several devices start one process for each "
        "(FORCE_TORCHRUN=1 tunesmith train ...)",
    ),
    Rule(
        "a spread model is in 4 bits of bitsandbytes",
        ("quantization_device_map", "quantization_bit", "quantization_method"),
        lambda c, g: c.quantization_device_map is not None and (not _quantized(c) or _not_bnb_4(c)),
        "quantization_device_map is read for 4 bits of bnb only; here they are {quantization_bit} of "
        "{quantization_method}",
        "remove quantization_device_map, or set quantization_bit: 4 and quantization_method: bnb",
        _USE[1:],
    ),
    Rule(
        "nothing is merged into a quantized base",
        ("quantization_bit",),
        lambda c, g: _quantized(c),
        "quantization_bit is {quantization_bit}, but nothing is merged into quantized weights: added to rounded ones "
        "and rounded again, most of what was learnt would be lost",
        "merge into the original, unquantized weights, which is how a QLoRA adapter is meant to be merged: "
        "add quantization_bit=null to this command, or remove the line",
        ("export",),
    ),
)


def _inert(key: str) -> Note:
    return Note(
        f"{key} without quantization_bit",
        lambda c, g: key in g and not _quantized(c),
        f"{key} has no effect: quantization_bit is not set, so nothing is quantized",
        _USE,
    )


def _inert_beside(key: str) -> Note:
    return Note(
        f"{key} without 4 bits of bnb",
        lambda c, g: key in g and _not_bnb_4(c),
        f"{key} has no effect: bnb at 4 bits reads it, and here it is {{quantization_method}} at {{quantization_bit}}",
        _USE,
    )


QUANTIZATION_NOTES: tuple[Note, ...] = (
    _inert("quantization_method"),
    _inert("quantization_type"),
    _inert("double_quantization"),
    _inert_beside("quantization_type"),
    _inert_beside("double_quantization"),
)
