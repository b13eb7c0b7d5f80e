"""For each rule and note on training methods: settings that break it, and settings that repair it."""

from __future__ import annotations

BROKEN: dict[str, tuple[str, str, str]] = {
    "added blocks are trained by lora or freeze": (
        "train",
        "use_llama_pro=true finetuning_type=full",
        "finetuning_type=freeze",
    ),
    "added blocks or numbered layers": ("train", "use_llama_pro=true lora_layers=0", "lora_layers=null"),
    "one start for an adapter": ("train", "pissa_init=true loftq_init=true", "loftq_init=false"),
    "PiSSA without DoRA": ("train", "pissa_init=true use_dora=true", "use_dora=false"),
    "a start is for a new adapter": ("train", "pissa_init=true adapter_name_or_path=a", "create_new_adapter=true"),
    "a changed base is no reference": ("train", "pissa_init=true ref_policy=base", "ref_policy=start"),
    "OFT blocks by number or by size": (
        "train",
        "finetuning_type=oft oft_rank=4 oft_block_size=32",
        "oft_rank=0",
    ),
    "an expansion has a model, a folder and a number": ("expand", "num_expand=null", "num_expand=2"),
}
NOTED: dict[str, str] = {
    "a continued adapter has its shape": "adapter_name_or_path=a lora_rank=16",
    "a count of layers without their use": "freeze_trainable_layers=3",
    "PiSSA settings without PiSSA": "pissa_iter=4",
    "LoftQ settings without LoftQ": "loftq_bits=8",
    "two targets of OFT": "finetuning_type=oft oft_target=q_proj lora_target=v_proj",
    "special tokens named twice": "add_special_tokens=<a> new_special_tokens_config=tokens.yaml",
    "descriptions that are not there": "init_special_tokens=desc_init",
}
