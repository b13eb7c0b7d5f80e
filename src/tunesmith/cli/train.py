"""`tunesmith train FILE.yaml`: check the settings, then train here or hand over to one process per device.

With `do_predict` the rows are answered afterwards, by the saved model and in one process; alone, that is all.

Several processes are started when FORCE_TORCHRUN is true or more than one GPU is visible; inside such a process
(RANK and WORLD_SIZE are set, also by a hand-written `torchrun src/train.py ...`) training starts at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.config.resolve import Resolved


def run(argv: list[str]) -> int:
    """Train as `argv` says. Settings and model files are checked before any process is started or torch is imported."""
    from tunesmith.config.resolve import resolve
    from tunesmith.model.gguf_base import gguf_file_of
    from tunesmith.model.verify import read_model_config, verify_model_folder
    from tunesmith.runs.process import launch_torchrun, wants_torchrun

    resolved = resolve(argv, verb="train")
    if resolved.config.do_predict and not resolved.config.do_train:
        return _predict(resolved)
    base = Path(resolved.config.model_name_or_path or "")
    if base.is_dir() and gguf_file_of(base) is None:
        (read_model_config if resolved.config.train_from_scratch else verify_model_folder)(base)
    if wants_torchrun(os.environ):
        return launch_torchrun(argv)
    if os.environ.get("RANK", "0") == "0":
        print("loading torch and transformers", flush=True)  # the first seconds would otherwise pass in silence
    from tunesmith.train.run import train

    code = train(resolved)
    # a reward model has scored its rows within the training
    answers = resolved.config.do_predict and resolved.config.stage != "rm" and os.environ.get("RANK", "0") == "0"
    return _predict(resolved) if answers and code == 0 else code


def _predict(resolved: Resolved) -> int:
    from tunesmith.evaluate.predict import predict

    return predict(resolved)
