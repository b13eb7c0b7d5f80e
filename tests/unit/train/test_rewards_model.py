"""Reward models beside the policy and of their own, against transformers and PEFT alone; and rewards from settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reward_samples import sample
from tests.tiny import tiny_adapter, tiny_model
from tests.training import arguments, write_project

from tunesmith.config.resolve import resolve
from tunesmith.data.store import StoreBuilder
from tunesmith.errors import ConfigError, ModelError, TrainingError, UserError
from tunesmith.infer.batch import Rollout
from tunesmith.model.load import load_tokenizer
from tunesmith.model.save import save_weights
from tunesmith.model.scorer import Scorer
from tunesmith.model.value_head import ValueHead, save_value_head
from tunesmith.train.build import build_model
from tunesmith.train.rewards.combine import Rewards
from tunesmith.train.rewards.model import ModelReward
from tunesmith.train.rewards.sample import samples_of
from tunesmith.train.rewards.sources import rewards_from_config
from tunesmith.train.runtime import Runtime
from tunesmith.train.stage import Setup
from tunesmith.types import RowRef

SAMPLES = [sample("a", prompt_ids=(9,) * n, completion_ids=tuple(range(20, 23 + n))) for n in (5, 1, 12, 3)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A base model, a reward adapter on it, another model of the family with its head, and an adapter on that."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    file = tiny_adapter(folder / "reward", folder / "model", seed=5) / "adapter_config.json"
    file.write_text(file.read_text().replace('"lora_dropout": 0.0', '"lora_dropout": 0.5'))
    assert "0.5" in file.read_text()
    tiny_model(folder / "other", seed=9)
    tiny_adapter(folder / "other-adapter", folder / "other", seed=6)
    for number, name in enumerate(("reward", "other", "other-adapter")):
        torch.manual_seed(number)
        save_value_head(ValueHead(64), folder / name)
    return folder


def setup_of(project: Path, said: list[str] | None = None, dtype: torch.dtype = torch.float32, **settings) -> Setup:
    config = resolve(arguments(project, **settings), verb="train").config
    model = build_model(config, (dtype, torch.float32), None)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # the policy has moved
    scorer = Scorer(model.train(), dtype, "cpu")
    tell = (said if said is not None else []).append
    renderer = type("Renderer", (), {"tokenizer": load_tokenizer(config)})()
    return Setup(
        config=config,
        config_dir=project,
        runtime=Runtime(use_cpu=True),
        scorer=scorer,
        renderer=renderer,
        fingerprint={},
        row_tokens=16,
        say=tell,
        folder=project,
    )


def opened(setup: Setup, folder: Path) -> Rewards:
    rewards = rewards_from_config(setup.config, folder)
    rewards.open(setup)
    return rewards


def expected_scores(model_folder: Path, adapter: Path | None, head_folder: Path) -> list[float]:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    head = load_file(head_folder / "value_head.safetensors")
    scores = []
    for each in SAMPLES:
        ids = torch.tensor([[*each.prompt_ids, *each.completion_ids]])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        scores.append(float(hidden @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"][0]))
    return scores


def test_a_reward_adapter_scores_on_the_bare_base_whatever_the_policy_has_become(project: Path) -> None:
    setup = setup_of(project, reward_model=project / "reward")
    rewards = opened(setup, project)
    setup.scorer.train()  # as before every step; the reward adapter has dropout
    expected = expected_scores(project / "model", project / "reward", project / "reward")
    assert rewards.score(SAMPLES).totals == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


def test_a_whole_reward_model_scores_with_its_own_weights_and_adapters(project: Path) -> None:
    alone = {"reward_model_type": "full", "reward_model": project / "other"}
    rewards = opened(setup_of(project, **alone), project)
    expected = expected_scores(project / "other", None, project / "other")
    assert rewards.score(SAMPLES).totals == pytest.approx(expected, abs=1e-5)
    adapted = opened(setup_of(project, **alone, reward_model_adapters=project / "other-adapter"), project)
    expected = expected_scores(project / "other", project / "other-adapter", project / "other-adapter")
    assert adapted.score(SAMPLES).totals == pytest.approx(expected, abs=1e-5)


def test_a_whole_reward_model_has_bits_of_its_own(project: Path) -> None:
    alone = {"reward_model_type": "full", "reward_model": project / "other"}
    whole = opened(setup_of(project, **alone), project).score(SAMPLES).totals
    in_bits = opened(setup_of(project, **alone, reward_model_quantization_bit=4), project).score(SAMPLES).totals
    beside_bits = opened(setup_of(project, **alone, quantization_bit=4), project).score(SAMPLES).totals
    assert beside_bits == whole  # the policy's bits are not the reward model's
    assert in_bits != whole
    assert in_bits == pytest.approx(whole, abs=0.5)


def test_scoring_leaves_the_policy_as_it_was_and_its_adapter_alone_is_saved(project: Path, tmp_path: Path) -> None:
    setup = setup_of(project, reward_model=project / "reward", lora_dropout=0.3)
    model = setup.scorer.model

    own = list(model.named_modules())

    def state() -> tuple:
        modes = [module.training for _, module in own]
        return modes, [name for name, p in model.named_parameters() if p.requires_grad], model.active_adapter

    before = state()
    assert any(before[0])
    rewards = opened(setup, project)
    assert state() == before
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    rewards.score(SAMPLES)
    assert state() == before
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    save_weights(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_several_reward_models_keep_apart(project: Path) -> None:
    second = project / "second"
    tiny_adapter(second, project / "model", seed=8)
    save_value_head(ValueHead(64), second)
    rewards = opened(setup_of(project, reward_model=f"{project / 'reward'},{second}"), project)
    assert [source.name for source in rewards.sources] == [str(project / "reward"), str(second)]
    both = rewards.score(SAMPLES)
    for folder in (project / "reward", second):
        expected = expected_scores(project / "model", folder, folder)
        assert both.by_source[folder.name] == pytest.approx(expected, abs=1e-5)


def test_a_reward_adapter_of_another_base_is_noted(project: Path) -> None:
    said: list[str] = []
    save_value_head(ValueHead(64), project / "other-adapter")
    opened(setup_of(project, said, reward_model=project / "other-adapter"), project)
    assert [line for line in said if "was trained on" in line and "acts on" in line]


def test_modules_that_the_policy_trains_in_full_do_not_change_the_reward(project: Path) -> None:
    setup = setup_of(project, reward_model=project / "reward", additional_target="embed_tokens,lm_head")
    rewards = opened(setup, project)
    for name, parameter in setup.scorer.model.named_parameters():
        if "modules_to_save" in name:
            assert parameter.requires_grad
            torch.nn.init.normal_(parameter)
    expected = expected_scores(project / "model", project / "reward", project / "reward")
    assert rewards.score(SAMPLES).totals == pytest.approx(expected, abs=1e-5)


def test_a_base_that_was_merged_before_is_noted(project: Path, tmp_path: Path) -> None:
    said: list[str] = []
    earlier = tiny_adapter(tmp_path / "sft", project / "model", seed=11)
    given = {"adapter_name_or_path": earlier, "reward_model": project / "reward"}
    opened(setup_of(project, said, **given), project)
    assert said == []
    opened(setup_of(project, said, **given, create_new_adapter=True), project)
    assert said == [f"note: the reward adapter {project / 'reward'} acts on the base with {earlier} merged into it"]


def refusal(project: Path, **settings) -> UserError:
    with pytest.raises(UserError) as caught:
        opened(setup_of(project, **settings), project)
    return caught.value


def test_a_reward_model_that_does_not_fit_is_refused(project: Path, tmp_path: Path) -> None:
    tiny_adapter(tmp_path / "headless", project / "model")
    tiny_model(tmp_path / "words", vocab=300)
    save_value_head(ValueHead(64), tmp_path / "words")
    deep = tiny_model(tmp_path / "deep", num_layers=3)
    save_value_head(ValueHead(64), tiny_adapter(tmp_path / "deep-adapter", deep))
    full = {"reward_model_type": "full"}
    cases = {
        "holds no value_head.safetensors": {"reward_model": tmp_path / "headless"},
        "is no adapter folder": {"reward_model": project / "other"},
        "another vocabulary": {"reward_model": tmp_path / "words", **full},
        "does not hold|no config.json": {"reward_model": project / "reward", **full},
        "fits the model only in part|does not fit": {"reward_model": tmp_path / "deep-adapter"},
        "pissa_init": {"reward_model": project / "reward", "pissa_init": True},
        "finetuning_type is full": {"reward_model": project / "reward", "finetuning_type": "full"},
    }
    for message, settings in cases.items():
        error = refusal(project, **settings)
        assert any(part in error.what for part in message.split("|")), (message, error.what)
        assert isinstance(error, ModelError | ConfigError)


def test_a_reward_model_that_gives_nan_is_named_with_the_row() -> None:
    with pytest.raises(TrainingError, match="saves/rm returned nan") as caught:
        ModelReward("saves/rm", lambda sequences: [float("nan")] * len(sequences)).score(SAMPLES)
    assert "data/rows.json:7" in caught.value.where
    assert ModelReward("saves/rm", lambda sequences: []).score([]) == []


def test_the_settings_name_the_sources_and_their_order(project: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def f(completions, **_): return [3.0] * len(completions)")
    given = {"reward_model_type": "function", "reward_model": "rewards.py:f", "reward_functions": "finished,exact"}
    config = resolve(arguments(project, **given, reward_weights="1,10,100"), verb="train").config
    rewards = rewards_from_config(config, tmp_path)
    assert [source.name for source in rewards.sources] == ["rewards.py:f", "finished", "exact"]
    scored = rewards.score([sample("42", finished=False), sample("41", finished=True)])
    assert scored.totals == [103.0, 13.0]
    api = resolve(arguments(project, reward_model_type="api", reward_model="http://localhost:1/x"), verb="train").config
    assert [source.name for source in rewards_from_config(api, tmp_path).sources] == ["http://localhost:1/x"]


def test_no_reward_at_all_is_refused(project: Path) -> None:
    config = resolve(arguments(project), verb="train").config
    with pytest.raises(ConfigError, match="needs a reward"):
        rewards_from_config(config, project)


def test_a_pattern_with_a_comma_stays_whole_in_a_yaml_list(project: Path, tmp_path: Path) -> None:
    lines = [*arguments(project)]
    file = tmp_path / "train.json"
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    file.write_text(json.dumps({**values, "reward_functions": [r"regex:\d{1,3}", "finished"]}))
    config = resolve([str(file)], verb="train").config
    assert config.reward_functions == (r"regex:\d{1,3}", "finished")


def test_samples_hold_what_was_read_and_written_and_where_it_came_from(project: Path) -> None:
    tokenizer = load_tokenizer(resolve(arguments(project), verb="train").config)
    builder = StoreBuilder()
    prompts = ["<|im_start|>user\nWho are you?<|im_end|>\n", "<|im_start|>user\nTell me.<|im_end|>\n"]
    for line, text in enumerate(prompts, start=1):
        ids = tokenizer(text)["input_ids"]
        builder.add(ids, [0.0] * len(ids), RowRef("rows", "rows.json", line, line - 1), row={"answer": line})
    store = builder.build()
    hello = tuple(tokenizer("Hello 你好")["input_ids"])
    line_end = tokenizer("\n")["input_ids"][0]  # a stop token that is no special token
    answers = [Rollout((*hello, 2), True), Rollout((*hello, line_end), True), Rollout((1, *hello), False)]
    made = samples_of(tokenizer, store, [1, 1, 0], answers)
    assert [each.completion_text for each in made] == ["Hello 你好"] * 3
    assert [each.prompt_text for each in made] == [prompts[1], prompts[1], prompts[0]]
    assert made[0].full_text == prompts[1] + "Hello 你好<|im_end|>"
    assert made[2].full_text == prompts[0] + "<|im_start|>Hello 你好"
    assert [(each.fields["answer"], str(each.ref), each.finished) for each in made] == [
        (2, "rows.json:2", True),
        (2, "rows.json:2", True),
        (1, "rows.json:1", False),
    ]
    assert made[0].prompt_ids + made[0].completion_ids == (*tokenizer(prompts[1])["input_ids"], *hello, 2)


def test_rows_are_checked_before_anything_is_scored(project: Path) -> None:
    builder = StoreBuilder()
    for line, row in enumerate(({"answer": 1}, {"anwser": 2}), start=1):
        builder.add([1], [0.0], RowRef("rows", "rows.json", line, 0), row=row)
    config = resolve(arguments(project, reward_functions="exact"), verb="train").config
    with pytest.raises(UserError, match="column 'answer'") as caught:
        rewards_from_config(config, project).check_rows(builder.build())
    assert caught.value.where == "rows.json:2"
