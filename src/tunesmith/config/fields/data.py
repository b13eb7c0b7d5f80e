"""What is trained on: datasets, chat template, length limits, packing, and what happens to bad rows.

Template and system text concern every verb, since chat and export must render as training did; the rest is read when
rows are prepared. `on_bad_row`, `on_duplicate`, `min_stop_fraction` and `identity_*` are Tunesmith's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_EVERY_VERB = ("*",)
_CONCAT = "use mix_strategy: concat"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class DataOptions:
    """Datasets and how their rows become training examples."""

    GROUP: ClassVar[Group] = Group("data", "Data", "数据", ("train", "eval", "data", "predict"))

    template: str | None = option(
        None,
        en="Chat template; unset: the one that the model itself carries.",
        zh="对话模板；不设置则使用模型自带的模板。",
        verbs=_EVERY_VERB,
        aliases=("prompt_template",),
    )
    dataset: tuple[str, ...] = option(
        (),
        en="Datasets to train on: registered names, or paths of files and folders.",
        zh="训练用的数据集：已登记的名称，或文件、文件夹的路径。",
    )
    eval_dataset: tuple[str, ...] = option(
        (),
        en="Datasets to evaluate on, named like those of dataset.",
        zh="评估用的数据集，写法与 dataset 相同。",
    )
    dataset_dir: str = option(
        "data",
        en="Folder that holds dataset_info.json and the data files.",
        zh="存放 dataset_info.json 和数据文件的文件夹。",
    )
    media_dir: str | None = option(
        None,
        en="Folder of images, videos and sounds.",
        zh="图像、视频和音频所在的文件夹。",
        aliases=("image_dir",),
        later="train on text; multimodal rows are not read",
    )
    cutoff_len: int = option(
        2048,
        en="Longest sequence in tokens, prompt and answer; longer ones are cut, counted and listed.",
        zh="单条序列（提示加回答）的最大词元数；超出的部分会被截断，并计数列出。",
        ge=2,
        aliases=("max_seq_length", "model_max_length"),
    )
    train_on_prompt: bool = option(
        False,
        en="Learn the prompt as well as the answer.",
        zh="除回答外，也学习提示词。",
        stages=("sft", "gkd"),
    )
    mask_history: bool = option(
        False,
        en="Learn only the last answer of a conversation.",
        zh="只学习对话中的最后一个回答。",
        stages=("sft", "gkd"),
    )
    streaming: bool = option(
        False,
        en="Read the data while training instead of before it.",
        zh="边训练边读取数据，而不是事先读完。",
        later="leave it off; rows are prepared once and kept as compact arrays",
    )
    buffer_size: int = option(
        16384,
        en="Rows in the shuffle buffer of a streamed dataset.",
        zh="流式数据集的打乱缓冲区行数。",
        gt=0,
        later="it belongs to streaming; leave it out",
    )
    mix_strategy: str = option(
        "concat",
        en="How several datasets are combined.",
        zh="多个数据集的混合方式。",
        choices=("concat", "interleave_under", "interleave_over", "interleave_once"),
        later_choices={"interleave_under": _CONCAT, "interleave_over": _CONCAT, "interleave_once": _CONCAT},
    )
    interleave_probs: tuple[float, ...] = option(
        (),
        en="Share of each dataset when they are interleaved.",
        zh="交错混合时各数据集的概率。",
        ge=0,
        later=_CONCAT,
    )
    overwrite_cache: bool = option(
        False,
        en="Prepare the data again even if a cache exists.",
        zh="即使已有缓存也重新处理数据。",
        noop="prepared data is never reused after anything that it depends on has changed",
    )
    preprocessing_batch_size: int = option(
        1000,
        en="Rows tokenized at a time.",
        zh="每批分词的行数。",
        gt=0,
        noop="rows are prepared one by one, in order",
    )
    preprocessing_num_workers: int | None = option(
        None,
        en="Processes that prepare the data.",
        zh="处理数据的进程数。",
        ge=0,
        noop="one process prepares the data: the tokenizer uses all cores by itself",
    )
    max_samples: int | None = option(
        None,
        en="Use only the first N rows of every dataset.",
        zh="每个数据集只取前 N 行。",
        gt=0,
    )
    eval_num_beams: int | None = option(
        None,
        en="Beams when evaluation generates text.",
        zh="生成式评估时的束宽。",
        gt=0,
        off=(1,),
        later="evaluation measures loss and token accuracy",
    )
    ignore_pad_token_for_loss: bool = option(
        True,
        en="Leave padding out of the loss.",
        zh="计算损失时忽略填充位置。",
        noop="padding never carries loss",
    )
    val_size: float = option(
        0.0,
        en="Rows held out for evaluation: a share below 1, or a number of rows.",
        zh="划作验证集的数据：小于 1 为比例，否则为行数。",
        ge=0,
    )
    eval_on_each_dataset: bool = option(
        False,
        en="Report the evaluation of each evaluation dataset separately.",
        zh="分别报告每个评估数据集的结果。",
    )
    packing: bool | None = option(
        None,
        en="Put several examples in one row; they never see each other.",
        zh="把多条样本拼成一行；样本之间互不可见。",
        aliases=("sft_packing",),
    )
    neat_packing: bool = option(
        False,
        en="Pack without examples seeing each other (packing always does so here).",
        zh="无污染打包（此处的打包始终互不可见）。",
        aliases=("efficient_packing",),
        stages=("sft",),
    )
    tool_format: str | None = option(
        None,
        en="How tools and their calls are written, if not as the template has it: `default`, `qwen`, `llama3`, ... "
        "(docs/templates.md).",
        zh="工具及其调用的书写格式（`default`、`qwen`、`llama3` 等，见 docs/templates.md）；不设置则按模板。",
        verbs=_EVERY_VERB,
    )
    default_system: str | None = option(
        None,
        en="System text for conversations that bring none of their own.",
        zh="对话自身没有系统提示时使用的系统提示。",
        verbs=_EVERY_VERB,
        aliases=("system_prompt",),
    )
    enable_thinking: bool | None = option(
        True,
        en="Reasoning models: think before the answer; null leaves it to the row.",
        zh="推理模型：先思考再回答；null 表示由数据决定。",
        verbs=_EVERY_VERB,
    )
    preserve_thinking: bool = option(
        False,
        en="Keep the reasoning of earlier turns in the context.",
        zh="在上下文中保留之前各轮的思考内容。",
        verbs=_EVERY_VERB,
    )
    tokenized_path: str | None = option(
        None,
        en="Folder to write prepared data to, or to read it from.",
        zh="保存或读取已处理数据的文件夹。",
        later="the data is prepared at the start of each run",
        aliases=("cache_path",),
    )
    data_shared_file_system: bool = option(
        False,
        en="All machines share one file system.",
        zh="各台机器共用同一个文件系统。",
        noop="each process prepares the same data",
    )
    on_bad_row: str | None = option(
        None,
        en="A row that cannot be used: error stops, drop goes on; unset: up to 1 % of a file is dropped and listed.",
        zh="遇到无法使用的行：error 停止，drop 丢弃；不设置时最多丢弃一个文件的 1 % 并列出。",
        choices=("error", "drop"),
    )
    on_duplicate: str = option(
        "keep",
        en="Exact duplicates are marked and counted, then kept or dropped.",
        zh="完全重复的行会被标记和计数，然后保留或丢弃。",
        choices=("keep", "drop"),
    )
    min_stop_fraction: float = option(
        0.99,
        en="Smallest share of trained turns that must end in the token that stops generation.",
        zh="以停止标记结尾的训练回答的最低比例。",
        ge=0,
        le=1,
    )
    identity_name: str | None = option(
        None,
        en="Text that replaces {{name}} in the rows.",
        zh="替换数据中 {{name}} 的名字。",
        aliases=("name",),
        short=("name",),
    )
    identity_author: str | None = option(
        None,
        en="Text that replaces {{author}} in the rows.",
        zh="替换数据中 {{author}} 的作者名。",
        aliases=("author",),
        short=("author",),
    )
