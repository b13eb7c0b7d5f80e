"""`rope_scaling`: stretch a model's rotary positions so that it reads longer texts than it was made for.

Training stretches by ceil(cutoff_len / positions), and only where cutoff_len does not fit the model as it is. A full
model carries the result in its config.json. An adapter cannot, since it is used on the unscaled base: the positions
before and after are written beside it (`rope_scaling.json`), and everything that uses the adapter applies them, with
or without the key in its own file. Inference on a model or adapter that records nothing stretches by 2.

`dynamic` stretches by the length of the text at hand, so in a flat row a document's positions would depend on its
neighbours. Training therefore fixes them at those of the longest text, which is an ordinary larger base frequency.
References: Chen et al. (linear), arXiv 2306.15595; Peng et al. (dynamic NTK, YaRN), arXiv 2309.00071;
Llama 3.1 (llama3), arXiv 2407.21783.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError

RECORD_FILE = "rope_scaling.json"
INFERENCE_FACTOR = 2.0
LLAMA3_LOW_FREQUENCY, LLAMA3_HIGH_FREQUENCY = 1.0, 4.0
UNSCALED = "default"


@dataclass(frozen=True, slots=True)
class Positions:
    """What a model's configuration says about positions: transformers' `rope_parameters` and the longest text."""

    rope_parameters: Mapping[str, Any]
    max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """One stretch of positions: what the base had, and what was trained or is used. `factor` 1: unchanged."""

    method: str
    factor: float
    before: Positions
    after: Positions

    def write(self, folder: Path) -> None:
        """Write `rope_scaling.json` into a folder."""
        (folder / RECORD_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def describe(self) -> str:
        """`linear by 4 (512 to 2,048 positions)`."""
        before, after = self.before.max_position_embeddings, self.after.max_position_embeddings
        reach = after * (self.factor if is_dynamic(self.after) else 1)
        return f"{self.method} by {self.factor:g} ({before:,} to {reach:,.0f} positions)"


@dataclass(frozen=True, slots=True)
class RopeDecision:
    """How positions are stretched (None: as the base has them, nothing to record), and what the user is told."""

    scaling: RopeScaling | None = None
    note: str = ""


def read_record(folder: Path) -> RopeScaling | None:
    """The scaling recorded beside a model or an adapter. Raises: ModelError when the file is damaged."""
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        before, after = Positions(**data.pop("before")), Positions(**data.pop("after"))
        return RopeScaling(**data, before=before, after=after)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise ModelError(
            f"{file} cannot be read: {err}",
            why="without it the positions that training used are not known",
            fix="copy the file again from the run, or train anew",
        ) from err


def decide_rope(
    config: Config, model_config: Any, folder: Path, *, for_training: bool, adapters: Sequence[str | Path] = ()
) -> RopeDecision:
    """How the positions of a model are to be stretched.

    Args:
        model_config: the base model's transformers configuration; not changed.
        folder: the base model's folder.
        adapters: the adapters that will act on it, in order.

    Raises:
        ConfigError: the model has no rotary positions, or they are stretched in another way already.
        ModelError: an adapter records the positions of another base.
    """
    recorded, holder = _recorded(adapters)
    if recorded is not None:
        _refuse_other_base(recorded, holder, model_config)
    if for_training:
        return _for_training(config, model_config, recorded, holder)
    if recorded is not None:
        return _as_recorded(config, recorded, holder)
    if config.rope_scaling is None:
        return RopeDecision()
    own = read_record(folder)
    if own is not None:
        return RopeDecision(None, f"rope_scaling: the positions of {folder} are used as trained: {own.describe()}")
    scaling = scale(config.rope_scaling, INFERENCE_FACTOR, positions_of(model_config), model_config, for_training=False)
    why = "no adapter here records another" if adapters else "as this model records none"
    return RopeDecision(scaling, f"rope_scaling: {scaling.describe()}; the factor for inference, {why}")


def _for_training(config: Config, model_config: Any, recorded: RopeScaling | None, holder: str) -> RopeDecision:
    """Stretch what there is (the base's positions, or those of the adapter that is continued) to cutoff_len."""
    if config.rope_scaling is None:
        return _as_recorded(config, recorded, holder) if recorded else RopeDecision()
    base = positions_of(model_config)
    now = recorded.after if recorded else base
    if config.cutoff_len <= now.max_position_embeddings:
        unchanged = recorded or RopeScaling(config.rope_scaling, 1.0, base, base)
        have = f"cutoff_len {config.cutoff_len:,} fits the {now.max_position_embeddings:,} positions that there are"
        return RopeDecision(unchanged, f"rope_scaling: {config.rope_scaling} is not applied: {have}")
    factor = float(math.ceil(config.cutoff_len / now.max_position_embeddings))
    scaling = scale(config.rope_scaling, factor, now, model_config, for_training=True)
    note = f"rope_scaling: {scaling.describe()}, because cutoff_len is {config.cutoff_len:,}"
    if config.rope_scaling == "dynamic":
        note += (
            "; dynamic would change the positions with the length of each text, which does not go with training:"
            " they are fixed at those of the longest text"
        )
    return RopeDecision(RopeScaling(scaling.method, scaling.factor, base, scaling.after), note)


def _as_recorded(config: Config, recorded: RopeScaling, holder: str) -> RopeDecision:
    if recorded.factor == 1.0:
        return RopeDecision(recorded)
    note = f"positions are stretched as the adapter {holder} was trained: {recorded.describe()}"
    if config.rope_scaling not in (None, recorded.method):
        note += f"; rope_scaling: {config.rope_scaling} is not used"
    return RopeDecision(recorded, note)


def _recorded(adapters: Sequence[str | Path]) -> tuple[RopeScaling | None, str]:
    """What the last adapter that records anything records, and its name."""
    for adapter in reversed(adapters):
        record = read_record(Path(adapter))
        if record is not None:
            return record, str(adapter)
    return None, ""


def _refuse_other_base(recorded: RopeScaling, holder: str, model_config: Any) -> None:
    base = positions_of(model_config)
    if base in (recorded.before, recorded.after):
        return
    raise ModelError(
        f"the adapter {holder} was trained on a base with {recorded.before.max_position_embeddings:,} positions; "
        f"this one has {base.max_position_embeddings:,}, or other rotary frequencies",
        where=str(Path(holder) / RECORD_FILE),
        fix="use the base model that the adapter was trained on",
    )


def positions_of(model_config: Any) -> Positions:
    """The positions of a transformers configuration. Raises: ConfigError when they are not rotary or have no end."""
    text = model_config.get_text_config()
    parameters = getattr(text, "rope_parameters", None)
    longest = getattr(text, "max_position_embeddings", None)
    if not parameters or not longest:
        raise ConfigError(
            f"`rope_scaling` does not fit a model of type {model_config.model_type}",
            why="it has no rotary positions to stretch" if not parameters else "it names no longest text",
            fix="remove rope_scaling, and keep cutoff_len within what the model can read",
        )
    return Positions(json.loads(json.dumps(parameters)), int(longest))


def scale(method: str, factor: float, now: Positions, model_config: Any, *, for_training: bool) -> RopeScaling:
    """Stretch positions by a factor. Where a model has other positions in windowed layers, those stay.

    Raises: ConfigError when they are stretched by another method already.
    """
    parameters = dict(now.rope_parameters)
    is_nested = any(isinstance(value, dict) for value in parameters.values())
    if is_nested:
        whole = "full_attention" if "full_attention" in parameters else ""
        inner = parameters.get(whole)
        if inner is None:
            raise ConfigError(
                f"`rope_scaling` does not fit a model of type {model_config.model_type}",
                why=f"its positions differ by kind of layer: {', '.join(parameters)}",
                fix="remove rope_scaling",
            )
        parameters[whole] = _stretched(method, factor, inner, now, model_config, for_training)
    else:
        parameters = _stretched(method, factor, parameters, now, model_config, for_training)
    grows = method != "dynamic" or for_training  # transformers' dynamic counts from the positions before
    longest = int(now.max_position_embeddings * factor) if grows else now.max_position_embeddings
    return RopeScaling(method, factor, now, Positions(parameters, longest))


def _stretched(
    method: str, factor: float, own: Mapping[str, Any], now: Positions, model_config: Any, for_training: bool
) -> dict[str, Any]:
    """`rope_parameters` of one kind of layer."""
    own_method = own.get("rope_type", UNSCALED)
    if own_method not in (UNSCALED, method):
        raise ConfigError(
            f"`rope_scaling: {method}` does not fit this model: its positions are stretched already, by {own_method}",
            why="one method on top of another is defined by no paper and would undo what the model learnt",
            fix=f"set `rope_scaling: {own_method}`, which goes on from there, or remove it"
            if own_method in ("linear", "dynamic", "yarn", "llama3")
            else "remove rope_scaling, and keep cutoff_len within what the model can read",
        )
    if method == "dynamic" and for_training:
        return {**own, "rope_theta": _fixed_ntk_base(own, factor, model_config), "rope_type": UNSCALED}
    stretched = {**own, "rope_type": method, "factor": factor * float(own.get("factor") or 1.0)}
    if method in ("yarn", "llama3"):
        stretched.setdefault("original_max_position_embeddings", now.max_position_embeddings)
    if method == "llama3":
        stretched.setdefault("low_freq_factor", LLAMA3_LOW_FREQUENCY)
        stretched.setdefault("high_freq_factor", LLAMA3_HIGH_FREQUENCY)
    return stretched


def _fixed_ntk_base(own: Mapping[str, Any], factor: float, model_config: Any) -> float:
    """The base frequency that dynamic NTK reaches at `factor` times the original length.

    base * (factor * length / original - (factor - 1)) ** (d / (d - 2)) with length = factor * original, where d is
    the number of rotated dimensions of a head.
    """
    if own.get("rope_type", UNSCALED) == "dynamic":
        raise ConfigError(
            "`rope_scaling: dynamic` does not fit this model: its positions are dynamic already",
            fix="remove rope_scaling, and keep cutoff_len within what the model can read",
        )
    text = model_config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotated = int(head_dim * own.get("partial_rotary_factor", 1.0))
    return float(own["rope_theta"] * (factor * factor - (factor - 1)) ** (rotated / (rotated - 2)))


def apply_positions(model_config: Any, positions: Positions) -> None:
    """Set the positions of a transformers configuration, before a model is made from it."""
    text = model_config.get_text_config()
    text.max_position_embeddings = positions.max_position_embeddings
    text.rope_parameters = dict(positions.rope_parameters)


def is_dynamic(positions: Positions) -> bool:
    """Whether the positions depend on the length of the text."""
    return positions.rope_parameters.get("rope_type") == "dynamic"


def context_length(model_config: Any) -> int:
    """The longest text that a model can read; a very large number when its configuration does not say."""
    text = model_config.get_text_config()
    longest = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
    parameters = getattr(text, "rope_parameters", None) or {}
    if parameters.get("rope_type") == "dynamic":
        return int(longest * float(parameters.get("factor") or 1.0))
    return longest
