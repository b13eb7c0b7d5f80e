"""The command line's front door: one literal table from verb to the function that runs it.

`main` only looks up the verb, imports its module, and turns what went wrong into an exit code:
0 done, 1 a bug in Tunesmith (or a check that did not hold), 2 the user can remove the cause, 130 interrupted.
It imports nothing but the standard library, so `tunesmith --help` and every `tunesmith VERB --help` answer in
about 0.1 s, without torch, numpy or transformers. To add a verb: write `cli/<verb>.py` with
`run(argv: list[str]) -> int`, add its line to VERBS and its page to `cli/help_pages.py`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import UserError, did_you_mean

EXIT_OK, EXIT_BUG, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141

# verb -> (function that runs it, one line in English, one line in Chinese)
VERBS: dict[str, tuple[str, str, str]] = {
    "train": ("tunesmith.cli.train:run", "tune a model as a YAML file says", "按 YAML 配置微调模型"),
    "chat": ("tunesmith.cli.chat:run", "talk to a model or to what was just tuned", "与模型（或刚微调好的模型）对话"),
    "webchat": (
        "tunesmith.cli.webchat:run",
        "the same in the browser: vote, edit, compare with the base",
        "在浏览器中对话：可评价、修改回答，并与基座模型对比",
    ),
    "feedback": (
        "tunesmith.cli.feedback:run",
        "votes and edits of the web chat become training rows",
        "将网页对话中的评价与修改转换为训练数据",
    ),
    "api": ("tunesmith.cli.api:run", "serve a model as an OpenAI API", "以 OpenAI 接口提供模型服务"),
    "predict": (
        "tunesmith.cli.predict:run",
        "answer every row of a dataset, and judge the answers",
        "对数据集逐行生成回答并评分",
    ),
    "export": (
        "tunesmith.cli.export:run",
        "merge adapters into a model and prove the result",
        "合并 LoRA 并验证导出结果",
    ),
    "expand": (
        "tunesmith.cli.expand:run",
        "add blocks that change nothing yet, to train them alone",
        "插入初始不起作用的新层，供单独训练（LLaMA Pro）",
    ),
    "download": (
        "tunesmith.cli.download:run",
        "fetch a model or dataset from a hub, resumed and verified",
        "从模型站下载模型或数据集，可续传并校验",
    ),
    "verify": ("tunesmith.cli.verify:run", "is a model or adapter folder whole?", "检查模型或适配器文件夹是否完整"),
    "config": (
        "tunesmith.cli.config:run",
        "show effective settings, the JSON schema, the reference",
        "查看生效配置与参数手册",
    ),
    "data": ("tunesmith.cli.data:run", "look at rows as the model will see them", "预览训练数据与参与损失的 token"),
    "template": ("tunesmith.cli.template:run", "list, show and check chat templates", "列出、查看、检查对话模板"),
    "runs": ("tunesmith.cli.runs:run", "list run folders and what became of them", "列出训练记录及其状态"),
    "env": ("tunesmith.cli.env:run", "versions, devices, memory: what to put in a report", "版本、设备与内存信息"),
    "version": ("tunesmith.cli.version:run", "the version of Tunesmith", "显示版本号"),
    "help": ("tunesmith.cli.help:run", "this page, or the page of one verb", "显示帮助"),
}

# verb that is not there yet -> what to do meanwhile, in English and in Chinese
PLANNED: dict[str, tuple[str, str]] = {
    "webui": (
        "write a YAML file (see examples/) and use `tunesmith train`",
        "请参考 examples/ 写 YAML，用 `tunesmith train` 训练",
    ),
    "eval": (
        "set `val_size` or `eval_dataset` to get eval_loss while training",
        "请在训练时设置 `val_size` 或 `eval_dataset`",
    ),
    "plan": ("start with a small `max_samples` and read the printed totals", "请先用较小的 `max_samples` 试跑"),
    "doctor": ("use `tunesmith env`", "请先用 `tunesmith env`"),
    "bench": ("use `make bench`", "请先用 `make bench`"),
}

ANSWERING_VERBS = ("api", "webchat", "chat", "predict")
FILE_SUFFIXES = (".yaml", ".yml", ".json")
HELP_FLAGS = ("-h", "--help")
VERSION_FLAGS = ("-v", "-V", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Idle compute threads soon sleep instead of spinning on: docs/decisions/0012. Read when torch loads, hence here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Answering is many small products: a thread that waits a little longer is still awake for the next one.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000" if arguments[:1] and arguments[0] in ANSWERING_VERBS else "1000")
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as err:
        sys.stdout.flush()
        print(err.render(), file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left. Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as err:
        if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
            return _report_full_disk(err)
        _report_bug(arguments)
        return EXIT_BUG


def _report_full_disk(err: OSError) -> int:
    """A full disk is no bug, wherever it is met."""
    full = UserError(
        "the disk is full",
        where=str(err.filename or ""),
        why="what was being written is incomplete; whole checkpoints and exports are untouched",
        fix="free some space and run the same command again",
    )
    print(full.render(), file=sys.stderr)
    return full.exit_code


def program_name() -> str:
    """The name the user typed: `tunesmith`, an alias of it, or `python -m tunesmith`."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name == "__main__.py":
        return "python -m tunesmith"
    return name if name in ("tunesmith", "llamafactory-cli", "lmf") else "tunesmith"


def _dispatch(arguments: list[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if verb in HELP_FLAGS:
        verb = "help"
    elif verb in VERSION_FLAGS:
        verb = "version"
    if verb not in VERBS:
        raise _unknown(verb, rest)
    if any(flag in rest for flag in HELP_FLAGS):
        verb, rest = "help", [verb]
    module_name, _, function = VERBS[verb][0].partition(":")
    return int(getattr(importlib.import_module(module_name), function)(rest))


def _unknown(verb: str, rest: Sequence[str]) -> UserError:
    """The error for a first word that is no verb: planned, a forgotten verb, an option, or a typo."""
    program = program_name()
    if verb in PLANNED:
        from tunesmith.cli.help import language

        meanwhile = PLANNED[verb][1 if language() == "zh" else 0]
        return UserError(f"'{program} {verb}' is not there yet", fix=meanwhile)
    if verb.endswith(FILE_SUFFIXES):
        command = " ".join([program, "train", verb, *rest])
        return UserError(
            f"no verb given before the file '{verb}'", fix=f"write `{command}`, or chat / export / config show."
        )
    if verb.startswith("-"):
        return UserError(
            f"'{verb}' comes before any verb",
            fix=f"the verb comes first: `{program} train {verb} ...`. `{program} help` lists the verbs.",
        )
    hint = did_you_mean(verb, [*VERBS, *PLANNED])
    return UserError(f"unknown verb '{verb}'", fix=f"{hint} Verbs: {', '.join(VERBS)}.".strip())


def _report_bug(arguments: Sequence[str]) -> None:
    """Say in one line that this is our fault; keep the traceback in a file, or show it with TUNESMITH_DEBUG=1."""
    details = traceback.format_exc()
    last_line = details.strip().splitlines()[-1]
    print(f"this is a bug in Tunesmith: {last_line}", file=sys.stderr)
    if os.environ.get("TUNESMITH_DEBUG", "") not in ("", "0"):
        print(details, file=sys.stderr)
        return
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="tunesmith-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(f"command: {program_name()} {' '.join(arguments)}\n\n{details}")
    except OSError:  # nowhere to write: better a long message than a lost one
        print(details, file=sys.stderr)
        return
    print(f"the traceback is in {log.name} (TUNESMITH_DEBUG=1 shows it here)", file=sys.stderr)
