"""Probabilities close to one, and ratios of probabilities, without leaving log space.

`log(1 - p)` of a token that the model is sure of loses all its digits when p is formed first, and is minus infinity
when p rounds to one; the exponential of a log-ratio overflows fp32 above 88. Both would turn one odd answer into a
NaN in every weight. Here the argument is held within what the number format can represent; inside those limits the
functions are the plain formulas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 30.0
"""Nats. e^30 is 1e13: far beyond any ratio that clipping keeps, far below the largest fp32."""


def log1mexp(logp: Tensor) -> Tensor:
    """log(1 - exp(logp)) for log-probabilities (<= 0), any shape, exact at both ends.

    A probability within one rounding step of 1 counts as one step below it: the result and the gradient stay finite.
    Maechler, "Accurately Computing log(1 - exp(-|a|))", 2012.
    """
    held = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    small_p = torch.log1p(-held.exp())
    large_p = torch.log(-torch.expm1(held))
    return torch.where(held < -math.log(2.0), small_p, large_p)


def held_log_ratio(numerator_logp: Tensor, denominator_logp: Tensor) -> Tensor:
    """log(p / q), any shape, held within +-30 nats; beyond them the gradient is zero and `exp` is still finite."""
    return (numerator_logp - denominator_logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
