"""TRL's own loss code, run on given numbers instead of a model.

TRL 1.x has its losses inside the trainers' methods. Each function here calls such a method unbound, with a stand-in
for the trainer that holds the settings the method reads, and a stand-in for the model that returns prepared
log-probabilities. The arithmetic is TRL's; nothing of it is repeated here.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class OracleMissing(Exception):
    """The installed TRL is too old to be called this way: Python 3.10 gets TRL 1.14."""


PLAIN: dict[str, Any] = {
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}
"""Settings of every trainer that is run as an oracle: each step logged, in fp32, nothing written or sent."""


def need(major: int, minor: int) -> None:
    """Raises: OracleMissing when the installed TRL is older."""
    installed = version("trl")
    if tuple(int(part) for part in installed.split(".")[:2]) < (major, minor):
        raise OracleMissing(f"needs TRL {major}.{minor} or newer, {installed} is installed")


class _Accelerator:
    """One process: gathering and reducing return what they get."""

    device = torch.device("cpu")
    num_processes = 1
    parallelism_config = None

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather_for_metrics(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


class _Model:
    """Returns prepared per-token log-probabilities (rows x positions after the first)."""

    training = True

    def __init__(self, logp_SL: Tensor, mask_SL: Tensor) -> None:
        blank = torch.zeros_like(logp_SL).detach()
        self._outputs = SimpleNamespace(
            log_probs=logp_SL * mask_SL,
            label_mask=mask_SL.bool(),
            entropy=blank,
            mean_logits=blank,
            is_top1=blank.bool(),
        )

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        return self._outputs


def _trainer(**settings: Any) -> SimpleNamespace:
    shared = {
        "accelerator": _Accelerator(),
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "current_gradient_accumulation_steps": 1,
    }
    return SimpleNamespace(**{**shared, **settings})


def _with_first_column(mask_SL: Tensor) -> Tensor:
    """The mask over whole rows: position 0 has no prediction."""
    return torch.cat([torch.zeros_like(mask_SL[:, :1]), mask_SL], dim=1)


def dpo(loss_type: str, logp_SL: Tensor, mask_SL: Tensor, ref_S: Tensor, **settings: Any) -> Tensor:
    """Mean loss of `DPOTrainer`; the first half of the rows are the chosen answers."""
    need(1, 16)
    from trl import DPOTrainer

    model = _Model(logp_SL, mask_SL)
    trainer = _trainer(
        model=model,
        ld_alpha=settings.get("ld_alpha"),
        precompute_ref_logps=True,
        beta=settings.get("beta", 0.1),
        loss_types=[loss_type],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        label_smoothing=settings.get("label_smoothing", 0.0),
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=settings.get("discopop_tau", 0.05)),
    )
    mask = _with_first_column(mask_SL)
    ref_chosen, ref_rejected = ref_S.chunk(2)
    inputs = {
        "completion_mask": mask,
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    return DPOTrainer._compute_loss(trainer, model, inputs, False)


def simpo(chosen_P: Tensor, rejected_P: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Losses (P,) of `CPOTrainer` with loss_type simpo, on averaged log-probabilities."""
    return _cpo("simpo", chosen_P, rejected_P, beta=beta, simpo_gamma=gamma, label_smoothing=0.0)


def smoothed_sigmoid(chosen_P: Tensor, rejected_P: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """Losses (P,) of `CPOTrainer` with loss_type sigmoid: DPO's, given log-ratios in place of log-probabilities."""
    return _cpo("sigmoid", chosen_P, rejected_P, beta=beta, simpo_gamma=0.0, label_smoothing=label_smoothing)


def _cpo(loss_type: str, chosen_P: Tensor, rejected_P: Tensor, **settings: Any) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    trainer = _trainer(loss_type=loss_type, alpha=0.0, **settings)
    return CPOTrainer.cpo_loss(trainer, chosen_P, rejected_P)[0]


def log_odds_term(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """`ORPOTrainer`'s log sigmoid(log odds ratio), (P,), on averaged log-probabilities; it computes in fp32."""
    from trl.experimental.orpo import ORPOTrainer

    return ORPOTrainer.odds_ratio_loss(_trainer(beta=1.0), chosen_P, rejected_P)[0].double()


def kto(logp_SL: Tensor, mask_SL: Tensor, ref_S: Tensor, label_S: Tensor, kl_S: Tensor, **settings: Any) -> Tensor:
    """Mean loss of `KTOTrainer`; `kl_S`: log-ratios of the mismatched answers."""
    need(1, 16)
    from trl import KTOTrainer

    model = _Model(logp_SL, mask_SL)
    trainer = _trainer(
        model=model,
        calculate_KL=True,
        precompute_ref_logps=True,
        beta=settings.get("beta", 0.1),
        loss_type=settings.get("loss_type", "kto"),
        desirable_weight=settings.get("chosen_weight", 1.0),
        undesirable_weight=settings.get("rejected_weight", 1.0),
        _compute_kl_logps=lambda model, batch: kl_S,
    )
    mask = _with_first_column(mask_SL)
    inputs = {
        "completion_mask": mask,
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "label": label_S,
        "ref_logps": ref_S,
        "ref_KL_logps": torch.zeros_like(kl_S),
    }
    return KTOTrainer._compute_loss(trainer, model, inputs, False)


def reward(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | None, center: float | None) -> Tensor:
    """Mean loss of `RewardTrainer`."""
    from trl import RewardTrainer

    class Scores:
        training = True

        def __call__(self, **inputs: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.cat([chosen_P, rejected_P])[:, None])

    trainer = _trainer(model=Scores(), args=SimpleNamespace(center_rewards_coefficient=center))
    inputs: dict[str, Any] = {"attention_mask": torch.ones(2 * chosen_P.numel(), 1)}
    if margin_P is not None:
        inputs["margin"] = margin_P
    return RewardTrainer.compute_loss(trainer, trainer.model, inputs)


def grpo(
    loss_type: str,
    logp_SL: Tensor,
    mask_SL: Tensor,
    old_SL: Tensor,
    ref_SL: Tensor,
    advantage_S: Tensor,
    *,
    level: str = "token",
    clip: tuple[float, float] = (0.2, 0.2),
    beta: float = 0.0,
) -> Tensor:
    """Loss of `GRPOTrainer`, already divided as the form says; the longest answer allowed is the padded width."""
    from trl import GRPOTrainer

    trainer = _trainer(
        model=SimpleNamespace(training=True),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        beta=beta,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        max_completion_length=logp_SL.shape[1],
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp_SL, torch.zeros_like(logp_SL).detach(), None),
    )
    prompt = torch.ones(logp_SL.shape[0], 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones_like(mask_SL),
        "completion_mask": mask_SL,
        "old_per_token_logps": old_SL,
        "ref_per_token_logps": ref_SL,
        "advantages": advantage_S,
        "num_items_in_batch": mask_SL.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, trainer.model, inputs)


def dft(logp_SL: Tensor, mask_SL: Tensor) -> Tensor:
    """Mean loss of `SFTTrainer` with loss_type dft."""
    need(1, 16)
    from trl import SFTTrainer

    model = _Model(logp_SL, mask_SL)
    args = SimpleNamespace(loss_type="dft", average_tokens_across_devices=False)
    trainer = _trainer(model=model, args=args, compute_loss_func=None, label_smoother=None)
    return SFTTrainer.compute_loss(trainer, model, {"attention_mask": torch.ones_like(mask_SL)})


def gkd(student_CV: Tensor, teacher_CV: Tensor, *, beta: float, temperature: float) -> Tensor:
    """Divergence of `GKDTrainer`, (C,)."""
    from trl.experimental.gkd import GKDTrainer

    divergence = GKDTrainer.generalized_jsd_loss
    return divergence(student_CV, teacher_CV, beta=beta, temperature=temperature, reduction="none").sum(-1)


def topk_divergence(student_logp_CK: Tensor, teacher_logp_CK: Tensor, *, beta: float) -> Tensor:
    """Divergence of TRL's self-distillation over k tokens and a tail, (C,)."""
    from trl.experimental.sdpo import loss_utils

    student, teacher = (loss_utils.add_tail_bucket(logp) for logp in (student_logp_CK, teacher_logp_CK))
    return loss_utils.compute_divergence(student, teacher, beta)
