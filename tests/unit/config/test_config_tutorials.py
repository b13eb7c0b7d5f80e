"""Files and command lines as tutorials in the wild print them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_settings import refusal

from tunesmith.config.resolve import resolve

Write = Callable[..., Path]

LLAMA3_LORA = """\
cutoff_len: 1024
dataset: fintech,identity
dataset_dir: data
do_train: true
finetuning_type: lora
flash_attn: auto
fp16: true
gradient_accumulation_steps: 8
learning_rate: 0.0002
logging_steps: 5
lora_alpha: 16
lora_dropout: 0
lora_rank: 8
lora_target: q_proj,v_proj
lr_scheduler_type: cosine
max_grad_norm: 1.0
max_samples: 1000
model_name_or_path: models/Llama3-8B-Chinese-Chat
num_train_epochs: 10.0
optim: adamw_torch
output_dir: saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47
packing: false
per_device_train_batch_size: 2
plot_loss: true
preprocessing_num_workers: 16
report_to: none
save_steps: 100
stage: sft
template: llama3
use_unsloth: true
warmup_steps: 0
"""
LLAMA3_FROM_THE_PAGE = (
    LLAMA3_LORA.replace(
        "cutoff_len: 1024", "cutoff_len: 4096\nddp_timeout: 180000000\ninclude_num_input_tokens_seen: true"
    )
    .replace("learning_rate: 0.0002", "learning_rate: 5.0e-05")
    .replace("q_proj,v_proj", "all")
    .replace("num_train_epochs: 10.0", "num_train_epochs: 1000.0")
    .replace("use_unsloth: true\n", "")
)
TORCHRUN = """\
--stage sft --do_train --use_fast_tokenizer --flash_attn --model_name_or_path MODEL --dataset your_dataset
--template qwen --finetuning_type lora --lora_target q_proj,v_proj --output_dir OUT --overwrite_cache
--overwrite_output_dir --warmup_steps 100 --weight_decay 0.1 --per_device_train_batch_size 4
--gradient_accumulation_steps 4 --ddp_timeout 9000 --learning_rate 5e-6 --lr_scheduler_type cosine --logging_steps 1
--cutoff_len 4096 --save_steps 1000 --plot_loss --num_train_epochs 3 --bf16
"""
QWEN_EXPORT = """\
--model_name_or_path BASE --adapter_name_or_path ADAPTER --template qwen --finetuning_type lora --export_dir OUT
--export_size 2 --export_legacy_format False
"""
QWEN_CHAT = """\
model_name_or_path: models/Qwen2-0___5B-Instruct # 模型文件的路径
adapter_name_or_path: saves/Qwen2-0.5B-Instruct/lora/train_2024-09-25-15-42-07 # 使用LoRA训练出来的模型权重
template: qwen # 模板 默认是llama3
finetuning_type: lora
"""
QWEN_FULL = """\
### model
model_name_or_path: path/to/Qwen1.5_0.5B***  # 更换模型路径为自己的

### method
stage: sft
do_train: true
finetuning_type: full
deepspeed: examples/deepspeed/ds_z3_config.json # deepspeed多机多卡配置文件

### dataset
dataset: myidentity # 修改为自己的数据集
template: qwen
cutoff_len: 1024
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16 # 数据处理线程
dataloader_num_workers: 4 # 数据分发线程

### output
output_dir: path/to/saves/qwen2_vl-7b/full/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: true

### train
per_device_train_batch_size: 1 # 每个设备训练批次的size
gradient_accumulation_steps: 2 # 梯度累积
learning_rate: 1.0e-5 # 学习率
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1 # 预热
bf16: true
ddp_timeout: 180000000

### eval
val_size: 0.1 # 把10%的数据作为测试集
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""


@pytest.mark.parametrize("verb", ["train", "chat", "export", "data"])
def test_the_llama3_training_file_serves_every_verb(write: Write, verb: str) -> None:
    config = resolve([str(write(LLAMA3_LORA)), "export_dir=merged"], verb=verb).config
    assert config.dataset == ("fintech", "identity")
    assert config.lora_target == ("q_proj", "v_proj")
    assert (config.learning_rate, config.lora_dropout, config.warmup_steps) == (0.0002, 0.0, 0)
    assert (config.fp16, config.packing, config.report_to) == (True, False, ("none",))


def test_the_replaced_engine_is_named_once(write: Write) -> None:
    notes = resolve([str(write(LLAMA3_LORA))], verb="train").notes
    assert [note for note in notes if "use_unsloth" in note and "built-in fast path" in note]
    assert resolve([str(write(LLAMA3_LORA))], verb="chat").notes == []


def test_the_file_that_the_web_page_wrote_is_read(write: Write) -> None:
    config = resolve([str(write(LLAMA3_FROM_THE_PAGE))], verb="train").config
    assert (config.learning_rate, config.num_train_epochs, config.cutoff_len) == (5e-5, 1000.0, 4096)
    assert (config.ddp_timeout, config.include_num_input_tokens_seen) == (180000000, True)


def test_the_torchrun_command_line_is_read() -> None:
    resolved = resolve(TORCHRUN.split(), verb="train")
    config = resolved.config
    assert (config.flash_attn, config.bf16, config.do_train, config.plot_loss) == ("auto", True, True, True)
    assert (config.lora_target, config.learning_rate, config.warmup_steps) == (("q_proj", "v_proj"), 5e-6, 100)
    assert any("flash_attn" in note for note in resolved.notes)


def test_its_deepspeed_setting_is_refused_openly() -> None:
    error = refusal("--deepspeed", "ds_z3.json", *TORCHRUN.split(), bare=True)
    assert error.what == "deepspeed: ds_z3.json is not yet available"


def test_the_export_command_line_is_read() -> None:
    config = resolve(QWEN_EXPORT.split(), verb="export").config
    assert (config.export_dir, config.export_size, config.export_legacy_format) == ("OUT", 2, False)
    assert config.adapter_name_or_path == ("ADAPTER",)


def test_the_chat_file_is_read(write: Write) -> None:
    config = resolve([str(write(QWEN_CHAT))], verb="chat").config
    assert config.model_name_or_path == "models/Qwen2-0___5B-Instruct"
    assert config.template == "qwen"


def test_the_full_training_file_is_refused_for_deepspeed_alone(write: Write) -> None:
    path = write(QWEN_FULL)
    error = refusal(str(path), bare=True)
    assert error.what == "deepspeed: examples/deepspeed/ds_z3_config.json is not yet available"
    assert error.where == f"{path}:8"
    resolved = resolve([str(path), "deepspeed=null"], verb="train")
    assert (resolved.config.eval_strategy, resolved.config.eval_steps, resolved.config.val_size) == ("steps", 500, 0.1)
    assert any("cannot be resumed" in note or "not resumed" in note for note in resolved.notes)


def test_chat_takes_the_full_training_file_as_it_is(write: Write) -> None:
    assert resolve([str(write(QWEN_FULL))], verb="chat").config.finetuning_type == "full"
