"""One step of PPO beside the papers' equations, written out here answer by answer in float64.

Schulman et al. 2017 (clipped ratios), Schulman et al. 2016 (advantages, as a plain backward recursion), Ziegler et al.
2019 (the KL reward; scores, rewards and advantages brought to one scale). Nothing of `tunesmith.loss` is used. The step
learns twice from its answers, so that the second update has ratios and clipped values to look at; plain gradient
descent, so that a wrong gradient is a wrong weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stages import write_stage_project
from tests.tiny import tiny_model
from tests.training import history, run_training, weights
from torch import Tensor

SETTINGS: dict[str, Any] = {
    "finetuning_type": "full",
    "ppo_epochs": 2,
    "ppo_kl_coef": 0.3,
    "ppo_gamma": 0.97,
    "ppo_lambda": 0.9,
    "ppo_score_norm": True,
    "ppo_whiten_rewards": True,
    "temperature": 0.8,
    "optim": "sgd",
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "max_steps": 1,
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": 1,
}


@dataclass
class Recorded:
    """What our step began with: the head and the answers, as (prompt, answer) ids."""

    head: dict[str, Tensor]
    answers: list[tuple[list[int], list[int]]]


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Recorded]:
    from tunesmith.train.stages import on_policy

    project, settings = write_stage_project(folder, "ppo", num_rows=6)
    found: list[Recorded] = []
    sample = on_policy.sample_answers

    def recording(step: Any, *args: Any) -> Any:
        answers = sample(step, *args)
        pairs = [(list(s.prompt_ids), list(s.completion_ids)) for s in answers.samples]
        found.append(Recorded({k: v.detach().double() for k, v in step.scorer.value_head.state_dict().items()}, pairs))
        return answers

    monkeypatch.setattr(on_policy, "sample_answers", recording)
    monkeypatch.setattr(on_policy, "sampling_from_config", _some_end_early(on_policy.sampling_from_config))
    reference = tiny_model(folder / "reference", seed=3)
    run = run_training(project, **{**settings, **SETTINGS, "ref_model": reference})
    (recorded,) = found
    assert len({len(answer) for _, answer in recorded.answers}) > 1
    return project, run, recorded


def _some_end_early(sampling: Any) -> Any:
    """A twelfth of all tokens ends an answer, so that lengths differ."""
    return lambda config, _: sampling(config, range(40))


class Actor(torch.nn.Module):
    """A model and a head in float64: log-probability and value of every token of one answer."""

    def __init__(self, folder: Path, head: dict[str, Tensor]) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.weight, self.bias = (torch.nn.Parameter(head[f"summary.{name}"].clone()) for name in ("weight", "bias"))

    def forward(self, prompt: list[int], answer: list[int]) -> tuple[Tensor, Tensor]:
        """(logp_L, value_L)."""
        out = self.model(torch.tensor([prompt + answer]), output_hidden_states=True)
        before = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        logp_LV = (out.logits[0, before] / SETTINGS["temperature"]).log_softmax(-1)
        value_L = out.hidden_states[-1][0, before] @ self.weight[0] + self.bias[0]
        return logp_LV.gather(-1, torch.tensor(answer)[:, None])[:, 0], value_L


def _unit(values: list[Tensor], *, keep_mean: bool) -> list[Tensor]:
    """Variance 1 over all entries, and mean 0 unless it is kept."""
    every = torch.cat(values)
    scale = 1 / math.sqrt(float(every.var()) + 1e-8)
    return [(v - every.mean()) * scale + (every.mean() if keep_mean else 0) for v in values]


def _targets(rewards: list[Tensor], values: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(advantages before they are whitened, returns) by the backward recursion."""
    gamma, lam, advantages = SETTINGS["ppo_gamma"], SETTINGS["ppo_lambda"], []
    for reward_L, value_L in zip(rewards, values, strict=True):
        after, following, found = 0.0, 0.0, []
        for t in reversed(range(len(reward_L))):
            after = float(reward_L[t]) + gamma * following - float(value_L[t]) + gamma * lam * after
            following = float(value_L[t])
            found.append(after)
        advantages.append(torch.tensor(found[::-1], dtype=torch.float64))
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def _score(answers: list[list[int]]) -> list[float]:
    raw = torch.tensor([sum(t % 2 == 0 for t in ids) / len(ids) for ids in answers], dtype=torch.float64)
    return ((raw - raw.mean()) / raw.std()).tolist()


def _loss(actor: Actor, pairs: Any, old: Any, advantages: list[Tensor], returns: list[Tensor]) -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for (prompt, answer), (old_logp, old_value), advantage, target in zip(pairs, old, advantages, returns, strict=True):
        logp, value = actor(prompt, answer)
        ratio = (logp - old_logp).exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        held = old_value + (value - old_value).clamp(-0.2, 0.2)
        error = torch.maximum((value - target) ** 2, (held - target) ** 2)
        total, count = total + (-surrogate + 0.1 * 0.5 * error).sum(), count + len(answer)
    return total / count


def test_a_step_is_that_of_the_equations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, run, recorded = _run(tmp_path, monkeypatch)
    pairs = recorded.answers
    actor, reference = Actor(project / "model", recorded.head), Actor(tmp_path / "reference", recorded.head)
    with torch.no_grad():
        old = [actor(*pair) for pair in pairs]
        ref = [reference(*pair)[0] for pair in pairs]
    rewards = [-SETTINGS["ppo_kl_coef"] * (logp - other) for (logp, _), other in zip(old, ref, strict=True)]
    for reward, score in zip(rewards, _score([answer for _, answer in pairs]), strict=True):
        reward[-1] += score
    advantages, returns = _targets(_unit(rewards, keep_mean=True), [value for _, value in old])
    advantages = _unit(advantages, keep_mean=False)
    losses, norm = [], 0.0
    for _ in range(2):
        actor.zero_grad()
        loss = _loss(actor, pairs, old, advantages, returns)
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in actor.parameters() if p.grad is not None))
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for p in actor.parameters():
                p -= 0 if p.grad is None else SETTINGS["learning_rate"] * p.grad
    assert history(run, "loss") == [pytest.approx(sum(losses) / 2, rel=1e-5, abs=1e-6)]
    assert history(run, "grad_norm") == [pytest.approx(norm, rel=1e-5)]
    assert history(run, "value_clipped")[0] > 0, "the step was large enough for the clips to matter"
    ours, theirs = weights(run), actor.model.state_dict()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-6
