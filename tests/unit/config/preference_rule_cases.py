"""For each rule and note on preference training: settings that break it, and settings that repair it."""

from __future__ import annotations

BROKEN: dict[str, tuple[str, str, str]] = {
    "label smoothing where the loss knows it": (
        "train",
        "stage=dpo pref_loss=hinge dpo_label_smoothing=0.1",
        "pref_loss=sigmoid",
    ),
    "robust DPO corrects less than half of the pairs": (
        "train",
        "stage=dpo pref_loss=robust dpo_label_smoothing=0.5",
        "dpo_label_smoothing=0.49",
    ),
    "EXO smooths its labels": (
        "train",
        "stage=dpo pref_loss=exo_pair dpo_label_smoothing=0",
        "dpo_label_smoothing=0.1",
    ),
    "a loss that divides by beta": ("train", "stage=dpo pref_loss=ipo pref_beta=0", "pref_beta=0.1"),
    "a preference is worth something": ("train", "stage=kto pref_beta=0", "pref_beta=0.1"),
    "a classifier of rewards needs a reference": (
        "train",
        "stage=dpo pref_loss=simpo pref_bco_weight=0.5",
        "pref_bco_weight=0",
    ),
    "a base without its adapter is a model of its own": (
        "train",
        "stage=dpo ref_policy=base ref_model=r",
        "ref_policy=start",
    ),
    "a policy without its adapter needs an adapter": (
        "train",
        "stage=dpo ref_policy=base finetuning_type=full",
        "finetuning_type=lora",
    ),
}
NOTED: dict[str, str] = {
    "a reference that nothing reads": "stage=dpo pref_loss=simpo ref_model=r",
    "adapters of a reference that is not named": "stage=dpo ref_model_adapters=a",
    "the margin of another loss": "stage=dpo simpo_gamma=1.0",
}
