"""Reporting to SwanLab.

Comes later, like all outside log services. Keys and webhooks are secrets: never shown, never written to run.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "the run folder holds trainer_log.jsonl and training_loss.png; set use_swanlab: false"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SwanlabOptions:
    """SwanLab logging."""

    GROUP: ClassVar[Group] = Group("swanlab", "SwanLab", "SwanLab", ("train",))

    use_swanlab: bool = option(False, en="Send the log to SwanLab.", zh="将日志发送到 SwanLab。", later=_LATER)
    swanlab_project: str | None = option("llamafactory", en="SwanLab project.", zh="SwanLab 项目名。", later=_LATER)
    swanlab_workspace: str | None = option(None, en="SwanLab workspace.", zh="SwanLab 工作区。", later=_LATER)
    swanlab_run_name: str | None = option(
        None, en="Name of the run in SwanLab.", zh="SwanLab 中的实验名。", later=_LATER
    )
    swanlab_mode: str = option(
        "cloud",
        en="Send to the cloud or keep locally.",
        zh="发送到云端或保存在本地。",
        choices=("cloud", "local"),
        later=_LATER,
    )
    swanlab_api_key: str | None = option(
        None, en="SwanLab API key.", zh="SwanLab API 密钥。", secret=True, later=_LATER
    )
    swanlab_logdir: str | None = option(
        None, en="Folder of local SwanLab logs.", zh="SwanLab 本地日志的文件夹。", later=_LATER
    )
    swanlab_lark_webhook_url: str | None = option(
        None,
        en="Lark webhook that is told when training ends.",
        zh="训练结束时通知的飞书 webhook。",
        secret=True,
        later=_LATER,
    )
    swanlab_lark_secret: str | None = option(
        None, en="Secret of the Lark webhook.", zh="飞书 webhook 的密钥。", secret=True, later=_LATER
    )
