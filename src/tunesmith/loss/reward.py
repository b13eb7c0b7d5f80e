"""The reward model's loss: of two answers the preferred one shall score higher (Bradley and Terry, 1952).

A score is the reward head's value at the answer's last token. One loss per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise_loss(
    chosen_P: Tensor, rejected_P: Tensor, *, margin_P: Tensor | None = None, center: float = 0.0
) -> Tensor:
    """-log sigmoid(chosen - rejected - margin) + center x (chosen + rejected)^2, (P,).

    Args:
        chosen_P, rejected_P: scores.
        margin_P: how much better the chosen answer is said to be (Touvron et al. 2023, arXiv 2307.09288).
        center: pulls the scores towards mean zero (Eisenstein et al. 2023, arXiv 2312.09244).
    """
    difference_P = chosen_P - rejected_P
    loss_P = -logsigmoid(difference_P if margin_P is None else difference_P - margin_P)
    return loss_P + center * (chosen_P + rejected_P) ** 2 if center else loss_P


def score_metrics(chosen_P: Tensor, rejected_P: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and weights: the share of pairs in the right order (a tie is wrong), and the mean difference of scores."""
    chosen_P, rejected_P = chosen_P.detach(), rejected_P.detach()
    num_pairs = torch.tensor(float(chosen_P.numel()), device=chosen_P.device)
    return {
        "accuracy": ((chosen_P > rejected_P).float().sum(), num_pairs),
        "margin": ((chosen_P - rejected_P).sum(), num_pairs),
    }
