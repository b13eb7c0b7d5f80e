"""What the answers of a prediction depend on, by name, so that one is never continued with something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunesmith.config import Config
from tunesmith.config.cast import show
from tunesmith.config.resolve import Resolved
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.locate import Located
from tunesmith.model.adapters import ADAPTER_WEIGHTS
from tunesmith.model.fingerprint import file_sha256, weights_fingerprint
from tunesmith.model.load import model_folder
from tunesmith.model.value_head import VALUE_HEAD

_MODEL_KEYS = ("infer_backend", "infer_dtype", "quantization_bit", "quantization_method", "rope_scaling")
_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "max_new_tokens", "max_length", "repetition_penalty")


def model_to_ask(resolved: Resolved) -> Resolved:
    """The settings under which `locate` finds the model that is meant.

    A training file means what its run has tuned. Any other file means the model and the adapters that it names; its
    `output_dir` is only where the answers go.
    """
    is_silent = not (resolved.given("do_train") or resolved.given("do_predict"))
    if resolved.config.do_train or (is_silent and resolved.config.dataset):
        return resolved
    return resolved.replace("output_dir", None, "it is where the answers go; the model is the one that is named")


def identify(config: Config, located: Located, params: SamplingParams | None) -> dict[str, str]:
    """Hashes of the weights, and every setting that an answer (without `params`: a score) depends on."""
    folder = model_folder(replace(config, model_name_or_path=located.model))
    parts = {"stage": config.stage, "base weights": weights_fingerprint(folder)}
    for number, name in enumerate(located.adapters, 1):
        parts[f"adapter {number}"] = file_sha256(Path(name) / ADAPTER_WEIGHTS)
    heads = [Path(name) / VALUE_HEAD for name in (*reversed(located.adapters), str(folder))]
    if params is None:
        parts["value head"] = file_sha256(next(file for file in heads if file.is_file()))
    parts |= {key: show(getattr(config, key)) for key in _MODEL_KEYS}
    if params is None:
        return {**parts, "cutoff_len": str(config.cutoff_len)}
    parts |= {key: show(getattr(params, key)) for key in _SAMPLING}
    return {
        **parts,
        "seed": str(params.seed),
        "stop tokens": show(params.stop_ids),
        "skip_special_tokens": show(params.skip_special_tokens),
    }
