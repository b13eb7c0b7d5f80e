"""The load-balancing loss of a mixture of experts, in parts that add up to that of the whole global batch.

With E experts of which each token uses K, over all tokens of all expert layers:

    loss = E * sum over experts e of f_e * P_e

f_e is the number of tokens routed to expert e per token, P_e the mean probability that the routers gave it. It is K
when the load is even, and E * K when K experts get everything. As a product of two means it does not add up over
micro-batches: the mean of the parts' losses is another, stricter number, which depends on how the batch was cut. But
f_e is a count without gradient. Given the counts of the whole global batch (`ExpertLoad`, which add up), the loss is
linear in the probabilities, and parts computed one after the other, or on several ranks, sum to it exactly.
Reference: Fedus et al., "Switch Transformers", arXiv 2101.03961, equations 4 to 6; on why the counts should be those of
the global batch: Qiu et al., "Demons in the Detail", arXiv 2501.11873.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How many tokens each expert got, fp64 (E), of how many tokens, each counted once per expert layer."""

    assigned_E: Tensor
    num_tokens: float

    def __add__(self, other: ExpertLoad) -> ExpertLoad:
        return ExpertLoad(self.assigned_E + other.assigned_E, self.num_tokens + other.num_tokens)

    def nothing(self) -> ExpertLoad:
        """The load of no tokens on as many experts."""
        return ExpertLoad(torch.zeros_like(self.assigned_E), 0.0)


def expert_load(router_logits: Sequence[Tensor], top_k: int, weights_T: Tensor | None = None) -> ExpertLoad:
    """Count the assignments of some tokens.

    Args:
        router_logits: (T, E) of each expert layer.
        top_k: K, experts per token.
        weights_T: 1 for a token that counts, 0 for padding; None: all count.
    """
    num_experts = router_logits[0].shape[-1]
    assigned_E = torch.zeros(num_experts, dtype=torch.float64)
    num_tokens = 0.0
    for logits_TE in router_logits:
        chosen_TK = logits_TE.detach().topk(top_k, dim=-1).indices
        weight_T = torch.ones(len(logits_TE), dtype=torch.float64) if weights_T is None else weights_T.double().cpu()
        assigned_E.index_add_(0, chosen_TK.flatten().cpu(), weight_T.repeat_interleave(top_k))
        num_tokens += float(weight_T.sum())
    return ExpertLoad(assigned_E, num_tokens)


def router_balance_loss(
    router_logits: Sequence[Tensor],
    num_experts: int,
    top_k: int,
    weights_T: Tensor | None = None,
    load: ExpertLoad | None = None,
) -> Tensor:
    """What these tokens contribute to the balance loss. () fp32, with a graph to the router logits.

    Args:
        router_logits, top_k, weights_T: as for `expert_load`.
        num_experts: E.
        load: the counts of the whole global batch; None: these tokens are all of it.
    """
    load = load or expert_load(router_logits, top_k, weights_T)
    device = router_logits[0].device
    assigned_E = load.assigned_E.to(device, torch.float32)
    probability_E = torch.zeros(num_experts, dtype=torch.float32, device=device)
    for logits_TE in router_logits:
        routed_TE = logits_TE.float().softmax(-1)
        if weights_T is not None:
            routed_TE = routed_TE * weights_T.to(device, torch.float32)[:, None]
        probability_E = probability_E + routed_TE.sum(0)
    num_tokens = max(load.num_tokens, 1.0)
    return num_experts * ((assigned_E / num_tokens) * (probability_E / num_tokens)).sum()
