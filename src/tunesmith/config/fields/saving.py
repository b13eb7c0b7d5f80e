"""What is logged, evaluated and saved, and when: the rest of the Hugging Face arguments about a run's output.

A run always leaves trainer_log.jsonl and its plots in its folder; other log services come later. `save_best` is
Tunesmith's own: the checkpoint of the best evaluation survives `save_total_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_WHEN = ("no", "steps", "epoch")
_LOGGERS = (
    "wandb",
    "tensorboard",
    "mlflow",
    "neptune",
    "comet_ml",
    "swanlab",
    "trackio",
    "clearml",
    "dvclive",
    "codecarbon",
    "azure_ml",
    "flyte",
    "dagshub",
    "all",
)
_PLAIN_LOGS = "the run folder holds trainer_log.jsonl and training_loss.png; set report_to: none"
_HUB = "upload output_dir with the hub's own tool"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SavingOptions:
    """Logging, evaluation and checkpoints."""

    GROUP: ClassVar[Group] = Group("saving", "Logging, evaluation, checkpoints", "日志、评估与检查点", ("train",))

    logging_strategy: str = option(
        "steps", en="When the loss is logged.", zh="何时记录损失。", choices=_WHEN, older_values={"false": "no"}
    )
    logging_steps: int | float = option(
        500,
        en="Steps between log lines; below 1: a share of all steps.",
        zh="日志间隔步数；小于 1 时表示占总步数的比例。",
        gt=0,
    )
    logging_first_step: bool = option(False, en="Log the first step as well.", zh="第一步也写日志。")
    logging_nan_inf_filter: bool = option(
        True,
        en="Leave non-finite losses out of the log.",
        zh="日志中略去非有限的损失值。",
        noop="a non-finite loss stops the run with a diagnosis",
    )
    logging_dir: str | None = option(
        None, en="Folder of TensorBoard logs.", zh="TensorBoard 日志文件夹。", noop="logs are written to output_dir"
    )
    log_level: str = option(
        "passive",
        en="How much is printed.",
        zh="日志输出的详细程度。",
        choices=("detail", "debug", "info", "warning", "error", "critical", "passive"),
        noop="progress, notes and errors are always printed",
    )
    log_level_replica: str = option(
        "warning",
        en="How much other processes print.",
        zh="其他进程的日志详细程度。",
        choices=("detail", "debug", "info", "warning", "error", "critical", "passive"),
        noop="only the first process prints",
    )
    log_on_each_node: bool = option(
        True, en="Log on every machine.", zh="每台机器都写日志。", noop="the first process of the run writes the log"
    )
    disable_tqdm: bool | None = option(
        None,
        en="Show no progress bar.",
        zh="不显示进度条。",
        noop="progress is plain lines wherever the output is not a terminal",
    )
    include_num_input_tokens_seen: bool = option(
        False,
        en="Count the tokens seen, in the log.",
        zh="在日志中统计已训练的词元数。",
        older_values={"all": "true", "non_padding": "true"},
    )
    report_to: tuple[str, ...] = option(
        ("none",),
        en="Other services that receive the log.",
        zh="同时接收日志的外部服务。",
        choices=("none", *_LOGGERS),
        later_choices=dict.fromkeys(_LOGGERS, _PLAIN_LOGS),
    )
    run_name: str | None = option(
        None,
        en="Name of the run in logs and on the model card.",
        zh="本次训练在日志和模型卡中的名称。",
        noop="the run is named by its folder",
    )
    project: str = option(
        "huggingface", en="Project name for logging services.", zh="日志服务中的项目名。", later=_PLAIN_LOGS
    )
    trackio_space_id: str | None = option(
        None, en="Space that shows Trackio logs.", zh="展示 Trackio 日志的空间。", later=_PLAIN_LOGS
    )
    eval_strategy: str = option(
        "no",
        en="When to evaluate during training.",
        zh="训练过程中何时评估。",
        choices=_WHEN,
        aliases=("evaluation_strategy",),
        older_values={"false": "no"},
    )
    eval_steps: int | float | None = option(
        None,
        en="Steps between evaluations; below 1: a share of all steps; unset: logging_steps.",
        zh="评估间隔步数；小于 1 时表示占总步数的比例；不设置则等于 logging_steps。",
        gt=0,
    )
    eval_delay: float = option(
        0.0, en="Steps or epochs before the first evaluation.", zh="首次评估前等待的步数或轮数。", ge=0
    )
    eval_on_start: bool = option(False, en="Evaluate before the first step.", zh="在第一步之前先评估一次。")
    eval_accumulation_steps: int | None = option(
        None,
        en="Evaluation batches between moves of predictions to the CPU.",
        zh="评估时每隔多少批把预测移到 CPU。",
        gt=0,
        noop="evaluation keeps sums, not predictions, so its memory is constant",
    )
    prediction_loss_only: bool = option(
        False,
        en="Evaluate the loss only.",
        zh="评估时只计算损失。",
        noop="compute_accuracy adds the accuracy; predictions are never kept",
    )
    batch_eval_metrics: bool = option(
        False,
        en="Compute metrics batch by batch.",
        zh="逐批计算评估指标。",
        noop="metrics are always summed batch by batch",
    )
    save_strategy: str = option(
        "steps",
        en="When checkpoints are saved.",
        zh="何时保存检查点。",
        choices=(*_WHEN, "best"),
        later_choices={"best": "use steps or epoch; save_best: true keeps the best checkpoint as well"},
        older_values={"false": "no"},
    )
    save_steps: int | float = option(
        500,
        en="Steps between checkpoints; below 1: a share of all steps.",
        zh="检查点间隔步数；小于 1 时表示占总步数的比例。",
        gt=0,
    )
    save_total_limit: int | None = option(
        None,
        en="Keep this many newest checkpoints (and the best).",
        zh="只保留最新的若干个检查点（以及最佳的一个）。",
        gt=0,
    )
    save_only_model: bool = option(
        False,
        en="Leave optimizer and cursor out of checkpoints; such a run cannot be resumed.",
        zh="检查点中不存优化器和进度；这样的训练无法续训。",
    )
    save_best: bool = option(True, en="Keep the checkpoint with the best evaluation.", zh="保留评估结果最好的检查点。")
    save_safetensors: bool = option(
        True,
        en="Write safetensors files.",
        zh="保存为 safetensors 文件。",
        later="only safetensors files are written: a .bin file can run code when it is opened",
    )
    save_on_each_node: bool = option(
        False, en="Save on every machine.", zh="每台机器都保存。", noop="the first process of the run saves"
    )
    load_best_model_at_end: bool = option(
        False,
        en="End with the weights of the best evaluation instead of the last step's.",
        zh="训练结束时使用评估最好的权重，而不是最后一步的权重。",
    )
    metric_for_best_model: str | None = option(
        None,
        en="Metric that decides which evaluation is best; unset: loss.",
        zh="判断哪次评估最好的指标；不设置则为 loss。",
    )
    greater_is_better: bool | None = option(
        None,
        en="Whether a higher metric is better; unset: not for losses.",
        zh="指标是否越大越好；不设置时损失类指标越小越好。",
    )
    push_to_hub: bool = option(
        False, en="Upload the result to the Hugging Face hub.", zh="将结果上传到 Hugging Face。", later=_HUB
    )
    hub_model_id: str | None = option(
        None, en="Repository to upload to.", zh="上传到的仓库。", later=_HUB, aliases=("push_to_hub_model_id",)
    )
    hub_strategy: str = option(
        "every_save",
        en="When to upload.",
        zh="何时上传。",
        choices=("end", "every_save", "checkpoint", "all_checkpoints"),
        later=_HUB,
    )
    hub_private_repo: bool | None = option(None, en="Make the repository private.", zh="将仓库设为私有。", later=_HUB)
    hub_always_push: bool = option(
        False, en="Upload even if the previous upload has not ended.", zh="上一次上传未结束时也继续上传。", later=_HUB
    )
    hub_revision: str | None = option(None, en="Branch to upload to.", zh="上传到的分支。", later=_HUB)
