"""`tunesmith train FILE.yaml`: check the settings, then train here or hand over to one process per device.

Several processes are started when FORCE_TORCHRUN is true or more than one GPU is visible; inside such a process
(RANK and WORLD_SIZE are set, also by a hand-written `torchrun src/train.py ...`) training starts at once.
"""

from __future__ import annotations

import os
from pathlib import Path


def run(argv: list[str]) -> int:
    """Train as `argv` says. Settings and model files are checked before any process is started or torch is imported."""
    from tunesmith.config.resolve import resolve
    from tunesmith.model.gguf_base import gguf_file_of
    from tunesmith.model.verify import read_model_config, verify_model_folder
    from tunesmith.runs.process import launch_torchrun, wants_torchrun

    resolved = resolve(argv, verb="train")
    base = Path(resolved.config.model_name_or_path or "")
    if base.is_dir() and gguf_file_of(base) is None:
        (read_model_config if resolved.config.train_from_scratch else verify_model_folder)(base)
    if wants_torchrun(os.environ):
        return launch_torchrun(argv)
    if os.environ.get("RANK", "0") == "0":
        print("loading torch and transformers", flush=True)  # the first seconds would otherwise pass in silence
    from tunesmith.train.run import train

    return train(resolved)
