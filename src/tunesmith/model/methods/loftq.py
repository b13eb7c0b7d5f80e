"""LoftQ: start LoRA so that quantized weights and adapter together are near the original weights.

Two ways. With `quantization_bit: 4` the base is quantized as it is loaded, and A, B start from the largest part of what
that lost; the adapter belongs to the same base, quantized in the same way. Without it the alternation of the paper runs
(quantize, take the largest part of the error, quantize what that leaves, ...), and the base becomes the values that
`loftq_bits` can hold, in the usual number format. Those are another base model: the run writes it to `loftq_base`, and
the adapter names it as its base; beside the original weights the adapter would be wrong.
Reference: Li et al., "LoftQ", arXiv 2310.08659; the computation is PEFT's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import replace_lora_weights_loftq
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils.loftq_utils import loftq_init

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.folder import written_beside
from tunesmith.model.quiet import quiet_transformers

ADAPTER = "default"
BASE_FOLDER = "loftq_base"


def makes_own_base(config: Config) -> bool:
    """Whether the run changes the base's values, so that its adapter belongs to `loftq_base`."""
    return config.loftq_init and config.quantization_bit is None


def begin(model: Any, config: Config, model_folder: Path) -> None:
    """Set A and B of a PEFT LoRA model that has just been made, and without a quantized base also the base's values.

    Args:
        model_folder: where the original weights lie.

    Raises:
        ConfigError: bitsandbytes is not installed. ModelError: no adapted layer is quantized in four bits.
    """
    try:
        if config.quantization_bit is None:
            _alternate(model, config.loftq_bits, config.loftq_iter)
        else:
            replace_lora_weights_loftq(model, str(model_folder))
            _unscale(model)
    except ImportError as err:
        raise _needs_bitsandbytes() from err
    except ValueError as err:
        if "bitsandbytes is not available" in str(err) or "must be installed" in str(err):
            raise _needs_bitsandbytes() from err
        raise ModelError(
            "`loftq_init` fits no layer of the quantized model",
            why=str(err).splitlines()[0],
            fix="quantize with `quantization_method: bnb` and `quantization_bit: 4`, or remove one of the settings",
        ) from err


def _needs_bitsandbytes() -> ConfigError:
    return ConfigError("`loftq_init` needs the package bitsandbytes", fix="install it: pip install bitsandbytes")


@torch.no_grad()
def _unscale(model: Any) -> None:
    """PEFT sets B A to the error itself, but a layer adds `scaling` times B A."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_B:
            layer.lora_B[ADAPTER].weight.data /= layer.scaling[ADAPTER]


@torch.no_grad()
def _alternate(model: Any, num_bits: int, num_iterations: int) -> None:
    for layer in model.modules():
        if isinstance(layer, LoraLinear) and ADAPTER in layer.lora_A:
            weight = layer.get_base_layer().weight
            rank, scaling = layer.r[ADAPTER], layer.scaling[ADAPTER]
            values, first, second = loftq_init(weight.data, num_bits, rank, num_iterations)
            weight.data = values
            layer.lora_A[ADAPTER].weight.data.copy_(first)
            layer.lora_B[ADAPTER].weight.data.copy_(second / scaling)  # see _unscale


def write_base(model: Any, tokenizer: Any, run: Path) -> Path:
    """Write the base that a PEFT model stands on to `loftq_base` of a run, as a plain model folder. Returns it."""
    place = run / BASE_FOLDER
    base = model.get_base_model()
    state = {}
    for name, tensor in base.state_dict().items():
        if "lora_" not in name and ".token_adapter.trainable" not in name and ".modules_to_save." not in name:
            plain = name.replace(".base_layer.", ".").replace(".original_module.", ".").replace(".token_adapter.", ".")
            state[plain] = tensor
    with written_beside(place) as part, quiet_transformers():
        base.save_pretrained(str(part), state_dict=state)
        tokenizer.save_pretrained(str(part))
    return place


def own_base(adapter: Path) -> Path | None:
    """The `loftq_base` that an adapter belongs to: in its folder, or in the run folder around its checkpoint."""
    return next((p / BASE_FOLDER for p in (adapter, adapter.parent) if (p / BASE_FOLDER / "config.json").is_file()), None)
