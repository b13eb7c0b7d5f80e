"""For each rule and note on rewards and teachers: settings that break it, and settings that repair it."""

from __future__ import annotations

PPO = "stage=ppo reward_functions=exact"
GROUPS = "stage=grpo reward_functions=exact"
TAUGHT = "stage=gkd teacher_model=t"

BROKEN: dict[str, tuple[str, str, str]] = {
    "a stage that learns from rewards has one": ("train", "stage=ppo", "reward_functions=exact"),
    "a group has several answers": ("train", f"{GROUPS} num_generations=1", "num_generations=2"),
    "the answers of a group differ": ("train", f"{GROUPS} do_sample=false", "do_sample=true"),
    "the answers of ppo are drawn": ("train", f"{PPO} do_sample=false", "do_sample=true"),
    "a reward adapter stands beside an adapter": (
        "train",
        "stage=ppo reward_model=r finetuning_type=full",
        "reward_model_type=full",
    ),
    "prompts are not packed": ("train", f"{PPO} packing=true", "packing=false"),
    "distillation has a teacher": ("train", "stage=gkd", "teacher_model=t"),
    "a teacher that is asked once has the answers already": (
        "train",
        f"{TAUGHT} gkd_topk=8 gkd_lambda=0.5",
        "gkd_lambda=0",
    ),
}
NOTED: dict[str, str] = {
    "answers are drawn from the policy: top_p": f"{PPO} top_p=0.9",
    "answers are drawn from the policy: top_k": f"{PPO} top_k=20",
    "answers are drawn from the policy: repetition_penalty": f"{PPO} repetition_penalty=1.1",
    "a controller that stands still": f"{PPO} ppo_adaptive_kl=false ppo_target=3",
}
