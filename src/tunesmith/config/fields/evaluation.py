"""Multiple-choice benchmarks of the public tool's `eval` command.

Come later. Its `seed` is the one of training.py: one flat vocabulary has one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "measure loss and token accuracy with eval_dataset and do_eval"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class EvaluationOptions:
    """Benchmarks."""

    GROUP: ClassVar[Group] = Group("evaluation", "Benchmarks", "基准评测", ("eval",))

    task: str | None = option(
        None, en="Benchmark and split, such as mmlu_test.", zh="评测任务与划分，例如 mmlu_test。", later=_LATER
    )
    task_dir: str = option("evaluation", en="Folder of the benchmarks.", zh="评测数据的文件夹。", later=_LATER)
    batch_size: int = option(4, en="Questions per batch.", zh="每批的题目数。", gt=0, later=_LATER)
    lang: str = option("en", en="Language of the prompt.", zh="提示语的语言。", choices=("en", "zh"), later=_LATER)
    n_shot: int = option(5, en="Worked examples in the prompt.", zh="提示中的示例数。", ge=0, later=_LATER)
    save_dir: str | None = option(None, en="Folder of the results.", zh="评测结果的文件夹。", later=_LATER)
    download_mode: str = option(
        "reuse_dataset_if_exists",
        en="Whether to download a benchmark again.",
        zh="是否重新下载评测数据。",
        choices=("reuse_dataset_if_exists", "reuse_cache_if_exists", "force_redownload"),
        later=_LATER,
    )
