"""Spellings that earlier versions of the public tools had: renamed keys are read with a note, removed ones explained.

Plain renames stand at the option itself (`aliases`); here are those whose key has gone or whose value changes too.
"""

from __future__ import annotations

REMOVED: dict[str, str] = {
    "visual_inputs": "images belong to the rows of a dataset; multimodal rows are not read yet",
    "visual_inputs_type": "images belong to the rows of a dataset; multimodal rows are not read yet",
    "image_resolution": "use image_max_pixels (width times height)",
    "video_resolution": "use video_max_pixels (width times height)",
    "max_source_length": "use cutoff_len, the length of prompt and answer together",
    "max_target_length": "use cutoff_len, the length of prompt and answer together",
    "reserved_label_len": "prompt and answer share cutoff_len in proportion; remove the line",
    "resume_lora_training": "write create_new_adapter: true instead of resume_lora_training: false",
    "ppo_logger": "use report_to",
    "lora_bf16_mode": "use pure_bf16: true to keep trained weights in bfloat16",
    "use_ipex": "it was removed from transformers; the built-in CPU path needs no setting",
    "jit_mode_eval": "it was removed from transformers; remove the line",
    "fp16_backend": "it was removed from transformers; fp16: true is enough",
    "half_precision_backend": "it was removed from transformers; bf16: true or fp16: true is enough",
    "fp16_opt_level": "it belonged to Apex; fp16: true is enough",
    "sharded_ddp": "it was removed from transformers; sharding over several devices comes later",
    "fsdp_min_num_params": "it moved into fsdp_config, which comes later",
    "fsdp_transformer_layer_cls_to_wrap": "it moved into fsdp_config, which comes later",
    "use_mps_device": "an accelerator is used whenever there is one; remove the line",
    "adafactor": "use optim: adafactor",
    "use_legacy_prediction_loop": "it was removed from transformers; remove the line",
    "past_index": "it was removed from transformers; remove the line",
    "mp_parameters": "it belonged to SageMaker; remove the line",
    "tpu_num_cores": "TPUs are not supported; remove the line",
    "torchdynamo": "use torch_compile, which comes later",
    "ray_scope": "hyper-parameter search is not part of a training file; remove the line",
    "ray_run_name": "running on Ray comes later; remove the line",
    "ray_storage_path": "running on Ray comes later; remove the line",
    "ray_storage_filesystem": "running on Ray comes later; remove the line",
    "resources_per_worker": "running on Ray comes later; remove the line",
    "placement_strategy": "running on Ray comes later; remove the line",
    "push_to_hub_organization": "use hub_model_id: organisation/name, which comes later",
    "push_to_hub_token": "set HF_TOKEN in the environment",
    "include_tokens_per_second": "tokens per second are always logged; remove the line",
    "prompt_template_path": "use template",
    "compute_dtype": "use bf16: true or fp16: true",
    "device_map": "the device is chosen by itself; use_cpu: true keeps to the CPU",
    "block_diag_attn": "packed examples never see each other; remove the line",
}
"""Keys that are gone, each with what takes their place."""
