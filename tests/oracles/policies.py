"""Oracles of PPO and GRPO: TRL's GRPOTrainer for everything clipped, the papers' formulas, term by term, for the rest.

TRL 1.16 has no PPO. Its clipped surrogate is the one of GRPOTrainer, which takes an advantage per token as well.
"""

from __future__ import annotations

from functools import partial

import torch
from tests.oracles import trl_calls
from tests.oracles.table import Row, check, compare
from torch import Tensor

from tunesmith.loss.group import GroupTokens, group_advantages, group_loss
from tunesmith.loss.moments import Moments, whiten
from tunesmith.loss.policy import (
    KlController,
    Rollout,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    kl_k1,
    kl_k2,
    kl_k3,
    normalised_scores,
    ppo_loss,
    shaped_rewards,
)

NUM_ANSWERS, LONGEST = 6, 7


def draw_answers(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Padded log-probabilities now, when sampled, of the reference; mask; a number per token; a number per answer.

    Lengths run from 0 to 7: the first answer is empty, the second has one token.
    """
    shape = (NUM_ANSWERS, LONGEST)
    logp_SL = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    old_SL, ref_SL = (logp_SL + torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4 for _ in range(2))
    lengths_S = torch.randint(1, LONGEST + 1, (NUM_ANSWERS,), generator=generator)
    lengths_S[:2] = torch.tensor([0, 1])
    mask_SL = (torch.arange(LONGEST)[None] < lengths_S[:, None]).long()
    per_token_SL = torch.randn(shape, generator=generator, dtype=torch.float64)
    return logp_SL, old_SL, ref_SL, mask_SL, per_token_SL, torch.randn(NUM_ANSWERS, generator=generator).double()


def flat(mask_SL: Tensor, *padded: Tensor) -> tuple[Tensor, ...]:
    """(sequence_N, each padded tensor as a flat one)."""
    kept = mask_SL.bool()
    return (kept.nonzero()[:, 0], *(tensor[kept] for tensor in padded))


# GRPO: (our form, TRL's loss_type, level, clip, beta)
GROUP_CASES: list[tuple[str, str, str, tuple[float, float], float]] = [
    ("grpo", "grpo", "token", (0.2, 0.2), 0.0),
    ("grpo", "grpo", "token", (0.2, 0.2), 0.04),
    ("dapo", "dapo", "token", (0.2, 0.28), 0.04),
    ("dr_grpo", "dr_grpo", "token", (0.2, 0.2), 0.04),
    ("gspo", "grpo", "sequence", (3e-4, 4e-4), 0.0),
    ("gspo", "grpo", "sequence", (0.1, 0.2), 0.04),
]


def group_row(form: str, trl_name: str, level: str, clip: tuple[float, float], beta: float) -> Row:
    """One loss form: sum over weight against GRPOTrainer's loss."""

    def mine(logp: Tensor, old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, advantage_S: Tensor) -> Tensor:
        sequence_N, *tokens = flat(mask, logp, old, ref)
        given = GroupTokens(*tokens, advantage_S, sequence_N)
        out = group_loss(given, form, clip=clip, beta=beta, max_tokens=LONGEST)
        return out.loss_sum / out.weight

    def theirs(logp: Tensor, old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, advantage_S: Tensor) -> Tensor:
        return trl_calls.grpo(trl_name, logp, mask, old, ref, advantage_S, level=level, clip=clip, beta=beta)

    return compare(f"grpo {form}, clip {clip}, beta {beta}", "TRL GRPOTrainer", mine, theirs, draw_answers)


def first_update_row() -> Row:
    """No recorded log-probabilities: the ratio is 1, its gradient is the policy gradient."""

    def mine(logp: Tensor, _old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, advantage_S: Tensor) -> Tensor:
        sequence_N, logp_N, ref_N = flat(mask, logp, ref)
        out = group_loss(GroupTokens(logp_N, None, ref_N, advantage_S, sequence_N), "grpo", clip=(0.2, 0.2))
        return out.loss_sum / out.weight

    def theirs(logp: Tensor, _old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, advantage_S: Tensor) -> Tensor:
        return trl_calls.grpo("grpo", logp, mask, logp.detach(), ref, advantage_S)

    return compare("grpo, first update of a rollout", "TRL GRPOTrainer", mine, theirs, draw_answers)


def advantages_row(scale: str) -> Row:
    """Group advantages, with a group of equal rewards and groups of different sizes."""
    group_S = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3])

    def draw(generator: torch.Generator) -> tuple[Tensor]:
        reward_S = torch.randn(8, generator=generator, dtype=torch.float64)
        reward_S[3] = reward_S[6]
        return (reward_S,)

    def mine(reward_S: Tensor) -> Tensor:
        batch = Moments.from_sums(Moments.sums(reward_S[:3]) + Moments.sums(reward_S[3:]))
        return group_advantages(reward_S, group_S, 4, scale=scale, batch=batch)  # type: ignore[arg-type]

    def theirs(reward_S: Tensor) -> Tensor:
        reward_S = reward_S.detach()
        expected = torch.zeros_like(reward_S)
        for group in range(4):
            members = reward_S[group_S == group]
            own = float(members.std()) if members.numel() > 1 else 0.0
            divisor = {"group": own + 1e-4, "batch": float(reward_S.std()) + 1e-4, "none": 1.0}[scale]
            expected[group_S == group] = (members - members.mean()) / divisor
        return expected

    return compare(f"grpo advantages, scale {scale}", "formula, float64", mine, theirs, draw)


# PPO


def policy_row() -> Row:
    """The clipped surrogate with an advantage per token."""

    def mine(logp: Tensor, old: Tensor, _ref: Tensor, mask: Tensor, advantage: Tensor, _: Tensor) -> Tensor:
        _, logp_N, old_N, advantage_N = flat(mask, logp, old, advantage)
        return clipped_policy_loss(logp_N, old_N, advantage_N)[0].mean()

    def theirs(logp: Tensor, old: Tensor, ref: Tensor, mask: Tensor, advantage: Tensor, _: Tensor) -> Tensor:
        return trl_calls.grpo("dapo", logp, mask, old, ref, advantage)

    return compare("ppo clipped policy loss", "TRL GRPOTrainer (advantage per token)", mine, theirs, draw_answers)


def _draw_three(generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(torch.randn(3, 20, generator=generator, dtype=torch.float64).unbind())


def value_row() -> Row:
    """The clipped value loss, case by case."""

    def one(value: Tensor, old: Tensor, target: Tensor) -> Tensor:
        moved = float((value - old).detach())
        held = value if abs(moved) <= 0.2 else old + (0.2 if moved > 0 else -0.2)
        return max((value - target) ** 2, (held - target) ** 2, key=lambda error: float(error.detach())) / 2

    def theirs(*inputs: Tensor) -> Tensor:
        return torch.stack([one(*triple) for triple in zip(*inputs, strict=True)])

    def mine(*inputs: Tensor) -> Tensor:
        return clipped_value_loss(*inputs)[0]

    return compare("ppo clipped value loss", "formula, float64", mine, theirs, _draw_three)


def kl_row() -> Row:
    """The three estimators, from probabilities."""

    def mine(logp: Tensor, ref: Tensor, _: Tensor) -> Tensor:
        return torch.stack([kl_k1(logp, ref), kl_k2(logp, ref), kl_k3(logp, ref)])

    def theirs(logp: Tensor, ref: Tensor, _: Tensor) -> Tensor:
        ratio = ref.exp() / logp.exp()
        return torch.stack([-ratio.log(), ratio.log() ** 2 / 2, (ratio - 1) - ratio.log()])

    return compare("kl estimators k1, k2, k3", "Schulman 2020, float64", mine, theirs, _draw_three)


def rewards_row() -> Row:
    """Rewards per token: KL at every token, a normalised and clipped score at the last."""
    running = Moments(10.0, 0.3, 14.0)

    def mine(logp: Tensor, _old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, score_S: Tensor) -> Tensor:
        sequence_N, logp_N, ref_N = flat(mask, logp, ref)
        return shaped_rewards(normalised_scores(score_S, running, 0.5), logp_N, ref_N, sequence_N, kl_coef=0.2)

    def theirs(logp: Tensor, _old: Tensor, ref: Tensor, mask: Tensor, _: Tensor, score_S: Tensor) -> Tensor:
        rewards = []
        for answer, length in enumerate(mask.sum(1).tolist()):
            score = min(max((float(score_S[answer].detach()) - 0.3) / (14.0 / 9) ** 0.5, -0.5), 0.5)
            difference = (logp - ref)[answer].detach()
            rewards += [-0.2 * float(difference[t]) + score * (t == length - 1) for t in range(length)]
        return torch.tensor(rewards, dtype=torch.float64)

    return compare("ppo rewards per token", "Ziegler et al. 2019, float64", mine, theirs, draw_answers)


def gae_row() -> Row:
    """Generalised advantages as the double sum of the paper, answer by answer."""

    def mine(reward: Tensor, value: Tensor, _ref: Tensor, mask: Tensor, *_: Tensor) -> Tensor:
        sequence_N, reward_N, value_N = flat(mask, reward, value)
        return torch.stack(generalised_advantages(reward_N, value_N, sequence_N, NUM_ANSWERS, gamma=0.97, lam=0.9))

    def theirs(reward: Tensor, value: Tensor, _ref: Tensor, mask: Tensor, *_: Tensor) -> Tensor:
        advantages, returns = [], []
        for answer, length in enumerate(mask.sum(1).tolist()):
            r, v = reward[answer, :length].detach().tolist(), [*value[answer, :length].detach().tolist(), 0.0]
            deltas = [r[t] + 0.97 * v[t + 1] - v[t] for t in range(length)]
            own = [sum((0.97 * 0.9) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
            advantages += own
            returns += [own[t] + v[t] for t in range(length)]
        return torch.tensor([advantages, returns], dtype=torch.float64)

    return compare("ppo advantages (GAE) and returns", "Schulman et al. 2016, float64", mine, theirs, draw_answers)


def whiten_row(shift_mean: bool) -> Row:
    """Whitening by moments that were added up over three parts."""

    def mine(values: Tensor, *_: Tensor) -> Tensor:
        sums = sum((Moments.sums(part) for part in values.split(7)), torch.zeros(3, dtype=torch.float64))
        return whiten(values.detach(), Moments.from_sums(sums), shift_mean=shift_mean)

    def theirs(values: Tensor, *_: Tensor) -> Tensor:
        values = values.detach()
        whitened = (values - values.mean()) / (values.var() + 1e-8).sqrt()
        return whitened if shift_mean else whitened + values.mean()

    name = "ppo whitening" + ("" if shift_mean else ", mean kept")
    return compare(name, "formula, float64", mine, theirs, _draw_three)


def ppo_row() -> Row:
    """The whole loss of an update: both terms, sum over weight, gradients to policy and value head."""

    def mine(logp: Tensor, old: Tensor, value: Tensor, mask: Tensor, given: Tensor, _: Tensor) -> Tensor:
        _, logp_N, old_N, value_N, given_N = flat(mask, logp, old, value, given)
        rollout = Rollout(old_N.detach(), (value_N - 0.3 * given_N).detach(), given_N.detach(), given_N.detach() + 0.1)
        out = ppo_loss(logp_N, value_N, rollout, value_coef=0.1)
        return out.loss_sum / out.weight

    def theirs(logp: Tensor, old: Tensor, value: Tensor, mask: Tensor, given: Tensor, _: Tensor) -> Tensor:
        kept = mask.bool()
        advantage, old_value = given.detach(), (value - 0.3 * given).detach()
        ratio = (logp - old.detach()).exp()
        surrogate = torch.stack([ratio * advantage, ratio.clamp(0.8, 1.2) * advantage]).amin(0)[kept].mean()
        held = old_value + (value - old_value).clamp(-0.2, 0.2)
        errors = torch.stack([value - advantage - 0.1, held - advantage - 0.1]) ** 2
        return -surrogate + 0.1 * 0.5 * errors.amax(0)[kept].mean()

    return compare("ppo, policy and value", "Schulman et al. 2017, float64", mine, theirs, draw_answers)


def controller_row() -> Row:
    """The adaptive coefficient over 20 batches."""

    def mine(kls: Tensor, *_: Tensor) -> Tensor:
        controller, coefs = KlController(coef=0.2, target=6.0, horizon=10_000), []
        for kl in (kls.detach().double() * 8).tolist():
            controller = controller.after(kl, 64)
            coefs.append(controller.coef)
        return torch.tensor(coefs, dtype=kls.dtype)

    def theirs(kls: Tensor, *_: Tensor) -> Tensor:
        errors = ((kls.detach() * 8 - 6.0) / 6.0).clamp(-0.2, 0.2)
        return 0.2 * (1 + errors * 64 / 10_000).cumprod(0)

    return compare("ppo adaptive KL coefficient", "Ziegler et al. 2019, float64", mine, theirs, _draw_three)


for _case in GROUP_CASES:
    check(f"grpo/{_case[0]}/clip={_case[3]}/beta={_case[4]}", partial(group_row, *_case))
check("grpo/first_update", first_update_row)
for _scale in ("group", "batch", "none"):
    check(f"grpo/advantages/{_scale}", partial(advantages_row, _scale))
check("ppo/policy", policy_row)
check("ppo/value", value_row)
check("ppo/kl", kl_row)
check("ppo/rewards", rewards_row)
check("ppo/gae", gae_row)
for _shift in (True, False):
    check(f"ppo/whiten/shift_mean={_shift}", partial(whiten_row, _shift))
check("ppo/loss", ppo_row)
check("ppo/controller", controller_row)
