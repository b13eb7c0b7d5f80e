"""`tunesmith train FILE.yaml`: check the settings, then train here or hand over to one process per device.

Several processes are started when FORCE_TORCHRUN is true or more than one GPU is visible; inside such a process
(RANK and WORLD_SIZE are set, also by a hand-written `torchrun src/train.py ...`) training starts at once.
"""

from __future__ import annotations

import os


def run(argv: list[str]) -> int:
    """Train as `argv` says. The settings are checked before any process is started or torch is imported."""
    from tunesmith.config.resolve import resolve
    from tunesmith.runs.process import launch_torchrun, wants_torchrun

    resolved = resolve(argv, verb="train")
    if wants_torchrun(os.environ):
        return launch_torchrun(argv)
    from tunesmith.train.run import train

    return train(resolved)
