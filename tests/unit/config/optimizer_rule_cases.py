"""For each rule and note on optimizers: settings that break it, and settings that repair it."""

from __future__ import annotations

from tunesmith.config.optimizers import OPTIMIZERS

FULL = "finetuning_type=full"
GALORE = f"{FULL} use_galore=true pure_bf16=true"
BADAM = f"{FULL} use_badam=true"
FREE = "optim=schedule_free_adamw"

BROKEN: dict[str, tuple[str, str, str]] = {
    **{
        f"optim {name} is not to be had": ("train", f"optim={name}", "optim=adamw_torch")
        for name, info in OPTIMIZERS.items()
        if info.refusal
    },
    "one special optimizer": ("train", f"{GALORE} use_apollo=true", "use_apollo=false"),
    "low-rank and block-wise optimizers train the weights themselves": ("train", "use_galore=true", FULL),
    "Adam-mini knows the blocks of the model, not those of an adapter": ("train", "use_adam_mini=true", FULL),
    "GaLore builds on AdamW or Adafactor": ("train", f"{GALORE} optim=sgd", "optim=adafactor"),
    "APOLLO, Adam-mini and Muon bring their own AdamW": (
        "train",
        f"{FULL} use_muon=true optim=adafactor",
        "optim=adamw_torch",
    ),
    "BAdam builds on an optimizer whose state can be dropped": ("train", f"{BADAM} optim=adagrad", "optim=sgd"),
    "a fixed block is named": ("train", f"{BADAM} badam_switch_mode=fixed", "badam_start_block=1"),
    "a block is trained for at least one step": (
        "train",
        f"{BADAM} badam_switch_interval=0",
        "badam_switch_interval=-1",
    ),
    "layer-wise updates need no loss scaling": (
        "train",
        f"{FULL} use_galore=true galore_layerwise=true fp16=true",
        "galore_layerwise=false",
    ),
    "low-rank optimizers by name are told where to act": (
        "train",
        f"{FULL} optim=galore_adamw",
        "optim_target_modules=all-linear",
    ),
    "an optimizer without schedule has none": (
        "train",
        f"{FREE} lr_scheduler_type=cosine",
        "lr_scheduler_type=constant",
    ),
    "an optimizer's own warm-up is given in steps": (
        "train",
        f"{FREE} warmup_ratio=0.1",
        "lr_scheduler_type=constant_with_warmup",
    ),
    "blocks of layers do not hold the embeddings": (
        "train",
        f"{BADAM} embedding_learning_rate=1e-5",
        "embedding_learning_rate=null",
    ),
    "a plateau is seen by evaluation": (
        "train",
        "val_size=0.1 lr_scheduler_type=reduce_lr_on_plateau",
        "eval_strategy=epoch",
    ),
}
NOTED: dict[str, str] = {
    "layer-wise updates are not clipped": f"{GALORE} galore_layerwise=true",
    "low-rank training pays with pure bf16": f"{FULL} use_galore=true",
    "the licence of APOLLO's package": f"{FULL} use_apollo=true",
    "BAdam's ratio mode has no weight decay": f"{BADAM} badam_mode=ratio weight_decay=0.1",
    "target modules without an optimizer that has them": "optim_target_modules=attn",
    "a constant schedule does not warm up": "lr_scheduler_type=constant warmup_steps=5",
}
