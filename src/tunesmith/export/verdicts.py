"""Which measurements of a proof do not hold: one sentence for each, beginning with the name of the fault.

Plain weights are held to rounding. For quantized ones the bounds follow from a yardstick that is measured along with
them, the merged model rounded to nearest at the same bits: a right quantization is about as far from the tuned model
as that, a wrong one is not.
"""

from __future__ import annotations

from typing import Any

from tunesmith.export.logits import Difference
from tunesmith.export.measure import Losses, Measured
from tunesmith.export.weights import PackedWeights

# Largest logit difference that is rounding, as a share of the largest logit. Three comparisons, the first two sharp:
# 1. Merging. Adapter-on-base against the merged model, both in float32: only the order of sums differs. Measured 5e-6
#    on a 135M model of 30 layers, so 1e-4 leaves room for deeper ones; a matrix merged wrongly is far above it.
# 2. Writing. Every tensor in the files is the merged one, rounded to the export's dtype (`misplaced_weights`).
# 3. Reading. Adapter-on-base against the folder. What rounding the weights does to logits adds up over the layers:
#    in bfloat16 (8 significant bits) 0.8 to 5 % were measured, so this bound only stops what is grossly wrong.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1.5e-1}
# Difference of the held-out loss that is rounding, in nats per token. Measured in bfloat16: 0.001 to 0.003.
LOSS_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 2e-2}
# Below this share of the largest logit, base and tuned model differ by no more than float32 noise: no effect.
NOISE = 1e-6
# Nats per token that tuning must have gained on the held-out rows for the share of it that is kept to mean something.
MIN_GAIN = 0.05
# How much further from the tuned model than the yardstick a quantized folder may be: scales that are rounded too,
# another order of sums, kernels in 16 bits. Divergence is quadratic in the error of the weights, so it gets the square.
SLACK = 1.5


def plain_problems(measured: Measured, compute: str, stored: str) -> list[str]:
    """What is wrong with a folder of plain weights in the dtype `stored`, measured in the dtype `compute`."""
    difference, losses = measured.difference, measured.losses
    problems = [*_merging_problems(measured, compute), *measured.form_problems, *_misplaced(measured)]
    tolerance = TOLERANCE[stored] * difference.largest_logit
    if not difference.largest <= tolerance:
        problems.append(
            f"logits differ by up to {difference.largest:.4g}, rounding to {stored} explains {tolerance:.4g}"
        )
    if not abs(losses.after - losses.before) <= LOSS_TOLERANCE[stored]:
        problems.append(
            f"the loss on held-out rows went from {losses.before:.4f} to {losses.after:.4f}, rounding to {stored} "
            f"explains {LOSS_TOLERANCE[stored]:g}"
        )
    effect = measured.effect
    if effect is not None and effect.largest > NOISE * difference.largest_logit and difference.rms > 0.5 * effect.rms:
        # By the triangle inequality the export could then be nearer to the base than to the tuned model.
        problems.append(
            f"rounding to {stored} loses what was learned: error {difference.rms:.4g} rms, "
            f"effect of the adapter {effect.rms:.4g} rms; export with infer_dtype: float32, or train for longer"
        )
    return [*problems, *_effect_problems(measured)]


def quantized_problems(measured: Measured, compute: str) -> list[str]:
    """What is wrong with a quantized folder."""
    assert measured.packed is not None
    assert measured.yardstick is not None
    problems = [*_merging_problems(measured, compute), *measured.form_problems, *_packed_problems(measured.packed)]
    bounds = quantized_bounds(measured.yardstick, measured.losses)
    found = {
        "logprob": measured.difference.logprob,
        "kl": measured.difference.kl,
        "loss_difference": abs(measured.losses.after - measured.losses.before),
        "num_disagreeing": measured.difference.num_answer_tokens - measured.difference.num_agreeing,
    }
    for name, bound in bounds.items():
        if not found[name] <= bound:
            problems.append(
                f"further from what was tried than rounding explains: {_WORDS[name]} {found[name]:.4g}, plain rounding "
                f"to the same bits explains {bound:.4g}"
            )
    return [*problems, *_effect_problems(measured)]


_WORDS = {
    "logprob": "mean difference of the answers' log-probabilities",
    "kl": "mean divergence in nats",
    "loss_difference": "difference of the held-out loss in nats",
    "num_disagreeing": "answer tokens chosen otherwise",
}


def quantized_bounds(yardstick: Difference, losses: Losses) -> dict[str, float]:
    """The largest values that the measurements of a quantized folder may take.

    Log-probabilities and loss may be off by 1.5 times what the yardstick is off by, the divergence by 1.5 squared.
    Chance comes on top, three standard errors of what the yardstick shows: the answers hold few tokens.
    """
    assert losses.yardstick is not None
    num_disagreeing = yardstick.num_answer_tokens - yardstick.num_agreeing
    return {
        "logprob": SLACK * yardstick.logprob + 3 * yardstick.logprob_error,
        "kl": SLACK**2 * yardstick.kl,
        "loss_difference": SLACK * abs(losses.yardstick - losses.before) + 3 * losses.yardstick_error,
        "num_disagreeing": SLACK * num_disagreeing + 3 * (num_disagreeing + 1) ** 0.5,
    }


def _merging_problems(measured: Measured, compute: str) -> list[str]:
    tolerance = TOLERANCE[compute] * measured.difference.largest_logit
    if measured.merging.largest <= tolerance:
        return []
    found = f"{measured.merging.largest:.4g}, more than {compute} explains ({tolerance:.4g})"
    return [f"merging changed the logits by up to {found}"]


def _misplaced(measured: Measured) -> list[str]:
    wrong, of_base = measured.misplaced, measured.of_base
    problems = []
    if wrong:
        problems.append(f"{len(wrong)} of {measured.num_tensors} written tensors are not the merged ones: {wrong[0]}")
    if of_base:
        problems.append(
            f"wrong base: {len(of_base)} tensors that no adapter touches are not those of the base: {of_base[0]}"
        )
    return problems


def _packed_problems(packed: PackedWeights) -> list[str]:
    problems = []
    if packed.wrong:
        problems.append(
            f"{len(packed.wrong)} of {packed.num_compared} tensors are not the merged ones: {packed.wrong[0]}"
        )
    if packed.not_updated:
        problems.append(
            f"adapter not applied: {len(packed.not_updated)} packed matrices hold less than half of its update: "
            f"{packed.not_updated[0]}"
        )
    return problems


def _effect_problems(measured: Measured) -> list[str]:
    """Whether the adapters act, and act in the folder."""
    if measured.effect is None or measured.share is None:
        return []
    if measured.effect.largest <= NOISE * measured.difference.largest_logit:
        return ["the adapter had no effect: base and tuned model give the same logits"]
    problems = []
    if not measured.share >= 0.5:
        problems.append(
            f"adapter not applied: the folder is nearer to the base than to what was tried ({measured.share:.0%})"
        )
    losses = measured.losses
    gain = 0.0 if losses.base is None else losses.base - losses.before
    if gain > MIN_GAIN and not losses.after - losses.before <= 0.5 * gain:
        problems.append(
            f"more than half of what was learned is lost: held-out loss {losses.before:.4f} tuned, "
            f"{losses.after:.4f} in the folder, {losses.base:.4f} untuned"
        )
    return problems


def figures(measured: Measured, compute: str, stored: str) -> dict[str, Any]:
    """The measurements as proof.json records them."""
    difference, effect, losses = measured.difference, measured.effect, measured.losses
    recorded: dict[str, Any] = {
        "dtype": stored,
        "compute_dtype": compute,
        "largest_logit_difference": difference.largest,
        "tolerance": TOLERANCE[stored] * difference.largest_logit,
        "merge_logit_difference": measured.merging.largest,
        "merge_tolerance": TOLERANCE[compute] * difference.largest_logit,
        "rms_logit_difference": difference.rms,
        "largest_logit": difference.largest_logit,
        "logprob_difference": {"mean": difference.logprob, "largest": difference.largest_logprob, "kl": difference.kl},
        "greedy_agreement": difference.agreement,
        "num_answer_tokens": difference.num_answer_tokens,
        "num_equal_answers": sum(map(str.__eq__, measured.answers, measured.folder_answers)),
        "held_out_loss": {"before": losses.before, "after": losses.after, "base": losses.base},
        "adapter_effect": effect and {"largest": effect.largest, "rms": effect.rms, "share_in_folder": measured.share},
        "num_tensors_compared": measured.num_tensors,
    }
    if measured.packed is None or measured.yardstick is None:
        return {**recorded, "loss_tolerance": LOSS_TOLERANCE[stored]}
    yardstick = measured.yardstick
    recorded["packed_weights"] = {
        "largest_error_of_rounding": measured.packed.largest_error,
        "share_of_update": measured.packed.share_of_update,
    }
    recorded["yardstick"] = {
        "what": "the merged model rounded to nearest: same bits, same groups, same levels",
        "logprob": yardstick.logprob,
        "kl": yardstick.kl,
        "greedy_agreement": yardstick.agreement,
        "loss": losses.yardstick,
    }
    return {**recorded, "bounds": quantized_bounds(yardstick, losses)}
