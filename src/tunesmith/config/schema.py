"""The whole vocabulary in one place: `Config`, one flat frozen dataclass, and `specs()`, what is known of each key.

Attributes of `Config` are the keys of a training file. It is made by `resolve`; tests may build one directly,
`Config(lora_rank=4)`. To add a key, add one `option(...)` to a file of `config/fields`; nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tunesmith.config.fields.data import DataOptions
from tunesmith.config.fields.engines import EngineOptions, KTransformersOptions, LlamaCppOptions
from tunesmith.config.fields.evaluation import EvaluationOptions
from tunesmith.config.fields.export import ExportOptions
from tunesmith.config.fields.generation import GenerationOptions
from tunesmith.config.fields.groups import GroupOptions
from tunesmith.config.fields.media import MediaOptions
from tunesmith.config.fields.megatron import MegatronOptions
from tunesmith.config.fields.method import ADAPTER_METHODS, FreezeOptions, LoraOptions, MethodOptions, OftOptions
from tunesmith.config.fields.model import ModelOptions
from tunesmith.config.fields.optimizers import OptimizerOptions
from tunesmith.config.fields.quantization import QuantizationOptions
from tunesmith.config.fields.rlhf import RlhfOptions
from tunesmith.config.fields.runtime import DistributedOptions, LoaderOptions, ProfilerOptions
from tunesmith.config.fields.saving import SavingOptions
from tunesmith.config.fields.swanlab import SwanlabOptions
from tunesmith.config.fields.training import TrainingOptions
from tunesmith.config.spec import FieldSpec, read_fields


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Config(
    ModelOptions,
    DataOptions,
    MethodOptions,
    LoraOptions,
    FreezeOptions,
    TrainingOptions,
    SavingOptions,
    GenerationOptions,
    ExportOptions,
    LoaderOptions,
    DistributedOptions,
    QuantizationOptions,
    OftOptions,
    RlhfOptions,
    GroupOptions,
    OptimizerOptions,
    MediaOptions,
    EngineOptions,
    LlamaCppOptions,
    KTransformersOptions,
    ProfilerOptions,
    SwanlabOptions,
    EvaluationOptions,
    MegatronOptions,
):
    """Every setting of a run, typed and checked; the attributes are the keys of a training file.

    The bases stand in the order in which the reference page and `config show` list them.

    `Config(lora_rank=4)` is the defaults with one change. The generated methods of a dataclass of this size would
    take most of the start-up time of the command line, so the three that matter are written out.
    """

    def __init__(self, **settings: Any) -> None:
        unknown = settings.keys() - specs().keys()
        if unknown:
            raise TypeError(f"Config has no key {sorted(unknown)[0]}")
        self.__dict__.update({name: settings.get(name, spec.default) for name, spec in specs().items()})

    @property
    def trains_adapter(self) -> bool:
        """Whether training makes an adapter beside the weights, rather than other weights."""
        return self.finetuning_type in ADAPTER_METHODS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        pairs = ((name, self.__dict__[name], spec.default) for name, spec in specs().items())
        return f"Config({', '.join(f'{name}={value!r}' for name, value, default in pairs if value != default)})"


@lru_cache(maxsize=1)
def specs() -> dict[str, FieldSpec]:
    """What is known of every key, by name, group by group."""
    return read_fields(Config.__bases__)
