"""Where a run stands: a cursor into the plan, the counters, and the history of what was logged.

It is the whole memory of the loop besides weights and optimizer; a checkpoint stores it as
`trainer_state.json`, with the key names that readers of that file know.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STATE_FILE = "trainer_state.json"
SCHEMA_VERSION = 1


@dataclass
class TrainerState:
    """Counters after `global_step` updates; the next one is number `epoch_step` of epoch `epoch_index`."""

    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    epoch: float = 0.0
    epoch_index: int = 0
    epoch_step: int = 0
    num_input_tokens_seen: int = 0
    loss_total: float = 0.0
    loss_since_log: float = 0.0
    steps_since_log: int = 0
    metrics_since_log: dict[str, tuple[float, float]] = field(default_factory=dict)
    train_runtime_s: float = 0.0
    best_metric: float | None = None
    best_global_step: int = 0
    best_model_checkpoint: str | None = None
    num_worse_evaluations: int = 0
    plateau: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: Path) -> None:
        """Write `trainer_state.json` into the folder."""
        (folder / STATE_FILE).write_text(
            json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def read(cls, folder: Path) -> TrainerState:
        """The state stored in a folder; keys of other versions are left out."""
        stored = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return cls(**{key: value for key, value in stored.items() if key in cls.__dataclass_fields__})
