"""`moe_aux_loss_coef`: read the routers of a mixture of experts while it trains, for the load-balancing loss.

A tap on the decoder asks transformers for the router logits of each forward pass and keeps them until they are taken.
A step first counts, without gradients, where the tokens of the whole global batch go, and then adds each micro-batch's
part (`loss/balance.py` says why); the count costs one more forward pass per step, about a third of its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.loss.balance import ExpertLoad, expert_load, router_balance_loss

TOP_K_NAMES = ("num_experts_per_tok", "moe_topk", "num_experts_per_token", "top_k_experts")


class RouterTap:
    """The routers of one model.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        coefficient: weight of the balance loss beside the loss of the stage.

    Raises:
        ConfigError: the model has no experts.
    """

    def __init__(self, model: Any, coefficient: float) -> None:
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self.coefficient = coefficient
        self.top_k = experts_per_token(base.config)
        self._taken: list[Tensor] = []
        self._is_open = self._with_gradients = False
        decoder = base.get_decoder()
        decoder.register_forward_pre_hook(self._ask, with_kwargs=True)
        decoder.register_forward_hook(self._keep)

    def count(self) -> ExpertLoad:
        """The load of the forward passes since the last call of `count` or `loss`."""
        return expert_load(self._take(), self.top_k)

    def loss(self, load: ExpertLoad) -> Tensor:
        """The part of the balance loss that those forward passes contribute to a batch of this load; () fp32."""
        router_logits = self._take()
        return router_balance_loss(router_logits, router_logits[0].shape[-1], self.top_k, None, load)

    def open(self, *, with_gradients: bool) -> None:
        """Keep the router logits of the passes that follow, as far as they have gradients, or have none.

        A stage that also runs a reference in its step does so without gradients: that pass is not the model's own.
        """
        self._taken, self._is_open, self._with_gradients = [], True, with_gradients

    def close(self) -> None:
        """Keep none, and let go of those that were kept: an evaluation has no use for them."""
        self._taken, self._is_open = [], False

    def _take(self) -> list[Tensor]:
        taken, self._taken = self._taken, []
        if not taken:
            raise ModelError(
                "the model did not hand out the logits of its routers",
                why="this model type does not record them",
                fix="remove moe_aux_loss_coef, and report the model type",
            )
        return taken

    def _is_wanted(self) -> bool:
        return self._is_open and torch.is_grad_enabled() == self._with_gradients

    def _ask(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        return (args, {**kwargs, "output_router_logits": True}) if self._is_wanted() else None

    def _keep(self, module: nn.Module, _args: Any, output: Any) -> None:
        router_logits = getattr(output, "router_logits", None)
        if self._is_wanted() and router_logits:
            self._taken += [logits.flatten(0, -2) for logits in router_logits if logits is not None]


def experts_per_token(model_config: Any) -> int:
    """K. Raises: ConfigError when the model is no mixture of experts, or one to which this loss does not belong."""
    text = model_config.get_text_config()
    top_k = next((value for name in TOP_K_NAMES if isinstance(value := getattr(text, name, None), int)), 0)
    if top_k > 0 and hasattr(text, "router_aux_loss_coef"):
        return top_k
    raise ConfigError(
        f"`moe_aux_loss_coef` does not fit a model of type {model_config.model_type}",
        why="its routers balance their load in another way, without this loss"
        if top_k > 0
        else "it has no experts whose load could be balanced",
        fix="remove moe_aux_loss_coef",
    )
