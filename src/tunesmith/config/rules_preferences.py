"""Which settings of preference training may stand together: rows of `rules.RULES` and `rules.NOTES`.

The names below repeat what `loss.preference.PREFERENCE_LOSSES` says of each loss (a configuration is read without
torch); a test holds the two to each other.
"""

from __future__ import annotations

from tunesmith.config.rule import Note, Rule
from tunesmith.config.schema import Config

WITHOUT_REFERENCE = ("orpo", "simpo")
SMOOTHED = ("sigmoid", "robust", "exo_pair")
DIVIDED_BY_BETA = ("ipo", "sppo_hard")
EXO_LABEL_SMOOTHING = 1e-3
"""What the EXO paper takes."""

REFERENCE_KEYS = ("ref_model", "ref_model_adapters", "ref_model_quantization_bit", "ref_policy")


def _dpo(c: Config, *losses: str) -> bool:
    return c.stage == "dpo" and (not losses or c.pref_loss in losses)


def compares_with_reference(c: Config) -> bool:
    """Whether the trained model is held to a frozen one that the settings name."""
    if c.stage == "dpo":
        return c.pref_loss not in WITHOUT_REFERENCE
    return c.stage not in ("pt", "sft", "rm") or (c.stage == "sft" and c.use_asft_loss)


PREFERENCE_RULES: tuple[Rule, ...] = (
    Rule(
        "label smoothing where the loss knows it",
        ("dpo_label_smoothing", "pref_loss"),
        lambda c, g: _dpo(c) and c.dpo_label_smoothing > 0 and c.pref_loss not in SMOOTHED,
        "dpo_label_smoothing is {dpo_label_smoothing}, but pref_loss {pref_loss} has no label smoothing",
        f"remove dpo_label_smoothing, or choose pref_loss: {', '.join(SMOOTHED)}",
    ),
    Rule(
        "robust DPO corrects less than half of the pairs",
        ("dpo_label_smoothing", "pref_loss"),
        lambda c, g: _dpo(c, "robust") and c.dpo_label_smoothing >= 0.5,
        "pref_loss robust divides by 1 - 2 x dpo_label_smoothing, which is 0 at 0.5",
        "set dpo_label_smoothing to the share of swapped pairs, below 0.5",
    ),
    Rule(
        "EXO smooths its labels",
        ("dpo_label_smoothing", "pref_loss"),
        lambda c, g: _dpo(c, "exo_pair") and c.dpo_label_smoothing == 0,
        "pref_loss exo_pair is infinite at dpo_label_smoothing 0",
        f"remove dpo_label_smoothing (then it is {EXO_LABEL_SMOOTHING:g}, as in the paper), or set it above 0",
    ),
    Rule(
        "a loss that divides by beta",
        ("pref_beta", "pref_loss"),
        lambda c, g: _dpo(c, *DIVIDED_BY_BETA) and c.pref_beta == 0,
        "pref_loss {pref_loss} divides by pref_beta, which is 0",
        "set pref_beta above 0, such as 0.1",
    ),
    Rule(
        "a preference is worth something",
        ("pref_beta", "pref_loss"),
        lambda c, g: (
            (c.stage == "kto" or (_dpo(c) and c.pref_loss not in ("orpo", *DIVIDED_BY_BETA)))
            and c.pref_beta + c.pref_ftx == 0
        ),
        "pref_beta is 0: the loss would be the same whatever the model says, and nothing would be learnt",
        "set pref_beta above 0, such as 0.1",
    ),
    Rule(
        "a classifier of rewards needs a reference",
        ("pref_bco_weight", "pref_loss"),
        lambda c, g: _dpo(c, *WITHOUT_REFERENCE) and c.pref_bco_weight > 0,
        "pref_bco_weight is {pref_bco_weight}, but pref_loss {pref_loss} has no reference to take rewards from",
        "set pref_bco_weight: 0, or choose a pref_loss with a reference, such as sigmoid",
    ),
    Rule(
        "a base without its adapter is a model of its own",
        ("ref_policy", "ref_model"),
        lambda c, g: compares_with_reference(c) and c.ref_policy == "base" and c.ref_model is not None,
        "ref_policy: base and ref_model name two different references",
        "remove one of them",
    ),
    Rule(
        "a policy without its adapter needs an adapter",
        ("ref_policy", "finetuning_type"),
        lambda c, g: compares_with_reference(c) and c.ref_policy == "base" and not c.trains_adapter,
        "ref_policy: base is the model without its adapter, but finetuning_type {finetuning_type} has none",
        "remove ref_policy (the reference is then the model as the run starts from it), or name a ref_model",
    ),
)

PREFERENCE_NOTES: tuple[Note, ...] = (
    Note(
        "a reference that nothing reads",
        lambda c, g: bool(g & set(REFERENCE_KEYS)) and not compares_with_reference(c) and c.stage == "dpo",
        "pref_loss {pref_loss} has no reference: ref_model and ref_policy are not read",
    ),
    Note(
        "adapters of a reference that is not named",
        lambda c, g: (
            compares_with_reference(c)
            and (bool(c.ref_model_adapters) or c.ref_model_quantization_bit is not None)
            and c.ref_model is None
        ),
        "ref_model_adapters and ref_model_quantization_bit have no effect: ref_model is not set",
    ),
    Note(
        "the margin of another loss",
        lambda c, g: _dpo(c) and "simpo_gamma" in g and c.pref_loss != "simpo",
        "simpo_gamma is not read by pref_loss {pref_loss}",
    ),
)
