"""Rewards from a reward model: the value head's number at the last token of prompt and answer.

`lora`: an adapter that stage rm trained on the base of the policy; it acts on the policy's own base weights while it
scores, so it costs no second model. `full`: a model folder of its own, with adapters on it where they are named.
Either has its value head beside the weights (`model/value_head.py`) and the vocabulary of the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.data.collate import collate
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import StoreBuilder
from tunesmith.errors import ConfigError
from tunesmith.loss.scores import Want
from tunesmith.model.adapters import attach_adapters, base_of, require_adapter
from tunesmith.model.evaluating import evaluating
from tunesmith.model.load import load_model, load_tokenizer
from tunesmith.model.scorer import Scorer
from tunesmith.model.second_adapter import acting, add_adapter
from tunesmith.model.value_head import load_value_head, require_value_head
from tunesmith.model.verify import verify_model_folder
from tunesmith.train.reference import require_same_vocabulary
from tunesmith.train.rewards.sample import Sample, checked_scores
from tunesmith.train.stage import Setup
from tunesmith.types import RowRef

ScoreSequences = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Token id sequences in, one score each out: what a loaded reward model is to this package."""

ADAPTER_NAME = "reward"
SCORING_ROW_TOKENS = 2048
"""Rows without gradients may be longer than those of training, which were planned for prompts alone."""


class ModelReward:
    """Scores from a reward model that shares the policy's vocabulary.

    Args:
        name: the folder of the reward model.
        score_sequences: given prompt ids followed by completion ids, in the vocabulary of the policy; without it the
            model is opened by `open`.
    """

    def __init__(self, name: str, score_sequences: ScoreSequences | None = None) -> None:
        self.name = name
        self._score_sequences = score_sequences

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Reads nothing of a row."""

    def open(self, setup: Setup) -> None:
        """Load the reward model. Raises: ModelError when it does not fit the base model or the vocabulary."""
        opened = _beside_the_policy if setup.config.reward_model_type == "lora" else _model_of_its_own
        scorer, standing_in = opened(setup, Path(self.name).expanduser())

        def score_sequences(sequences: Sequence[Sequence[int]]) -> list[float]:
            with evaluating(scorer), standing_in():
                return end_values(scorer, sequences, max(setup.row_tokens, SCORING_ROW_TOKENS))

        self._score_sequences = score_sequences

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One score per sample. Raises: TrainingError when the model gives something that is no finite number."""
        assert self._score_sequences is not None, "a reward model is opened before it scores"
        if not samples:
            return []
        scores = self._score_sequences([(*sample.prompt_ids, *sample.completion_ids) for sample in samples])
        return checked_scores(scores, samples, f"the reward model {self.name}")


def named_reward_model(config: Config, name: str) -> ModelReward:
    """An entry of `reward_model`, for `reward_model_type` lora and full; its files are looked for, not yet read.

    Raises: ModelError when the folder, its adapter or its value head is not there; ConfigError when the policy has no
    adapters for a LoRA one to stand beside.
    """
    folder = Path(name).expanduser()
    if config.reward_model_type == "lora":
        if config.finetuning_type != "lora":
            raise ConfigError(
                f"reward_model_type is lora, but finetuning_type is {config.finetuning_type}",
                why="the reward adapter acts on the base weights beside the adapter that is trained",
                fix="set reward_model_type: full and reward_model to a whole reward model, or finetuning_type: lora",
            )
        _require_untouched_base(config)
        require_adapter(folder)
    else:
        verify_model_folder(folder)
        for adapter in config.reward_model_adapters:
            require_adapter(Path(adapter))
    require_value_head(_head_folder(config, folder))
    return ModelReward(name)


def _require_untouched_base(config: Config) -> None:
    """A reward adapter belongs to the base weights as they are in the files."""
    if config.pissa_init:
        raise ConfigError(
            "pissa_init takes the principal part out of the base weights; a reward adapter would act on what is left",
            fix="set pissa_init: false, or use a whole reward model (reward_model_type: full)",
        )


def _head_folder(config: Config, folder: Path) -> Path:
    """Where the value head stands: with the last adapter of a whole model, else with the weights."""
    with_adapters = config.reward_model_type == "full" and config.reward_model_adapters
    return Path(config.reward_model_adapters[-1]) if with_adapters else folder


StandingIn = Callable[[], AbstractContextManager[Any]]


def _beside_the_policy(setup: Setup, folder: Path) -> tuple[Scorer, StandingIn]:
    policy = setup.scorer
    adapter = f"{ADAPTER_NAME}_{len(policy.model.peft_config)}"
    add_adapter(policy.model, folder, adapter)
    base, own = base_of(folder), setup.config.model_name_or_path
    if base is not None and Path(base).name != Path(str(own)).name:
        setup.say(f"note: the reward adapter {folder} was trained on {base}; here it acts on {own}")
    given = setup.config.adapter_name_or_path
    merged = given if setup.config.create_new_adapter else given[:-1]
    if merged:
        setup.say(f"note: the reward adapter {folder} acts on the base with {', '.join(merged)} merged into it")
    head = load_value_head(folder, policy.model.config.get_text_config().hidden_size).to(setup.runtime.device)
    scorer = Scorer(policy.model, policy.compute_dtype, policy.device_type, head)
    return scorer, lambda: acting(policy.model, adapter)


def _model_of_its_own(setup: Setup, folder: Path) -> tuple[Scorer, StandingIn]:
    config, policy, device = setup.config, setup.scorer, setup.runtime.device
    adapters = config.reward_model_adapters
    source = replace(
        config,
        model_name_or_path=str(folder),
        adapter_name_or_path=adapters,
        quantization_bit=config.reward_model_quantization_bit,
    )
    require_same_vocabulary(setup, load_tokenizer(source), "reward_model", str(folder))
    model = load_model(source, dtype=policy.compute_dtype, device=device)
    head = load_value_head(_head_folder(config, folder), model.config.get_text_config().hidden_size)
    model = attach_adapters(model, adapters).to(device).requires_grad_(False)
    return Scorer(model, policy.compute_dtype, policy.device_type, head.to(device)), nullcontext


def end_values(scorer: Scorer, sequences: Sequence[Sequence[int]], row_tokens: int) -> list[float]:
    """The value at the last token of each sequence, in their order; flat rows of about `row_tokens` tokens."""
    builder = StoreBuilder()
    for index, ids in enumerate(sequences):
        builder.add(ids, (0.0,) * len(ids), RowRef("", "", 0, index))
    store = builder.build()
    device = next(scorer.parameters()).device
    values = [0.0] * len(sequences)
    for micro in plan_evaluation(store.lengths.tolist(), row_tokens, 1).micro_batches[0]:
        batch = collate(store, micro).to(device)
        values_T = scorer(batch, Want(logp=False, values=True)).values_T
        assert values_T is not None
        for index, value in zip(micro, values_T[batch.ends_S].tolist(), strict=True):
            values[index] = value
    return values
