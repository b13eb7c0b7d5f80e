"""The names under which models are asked for: the tuned one, its base, and adapters that are served beside them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.infer.locate import Located, adapter_problem

PEFT_NAME = "default"
"""The name under which PEFT keeps the adapter that a model is loaded with; no served adapter may have it."""


def base_name(located: Located) -> str:
    """What the base is called: the last part of its path."""
    return Path(located.model).expanduser().name or located.model


def tuned_name(located: Located) -> str | None:
    """What the tuned model is called: the folder of its last adapter (a checkpoint: with the run); None without one."""
    if not located.adapters:
        return None
    folder = Path(located.adapters[-1]).expanduser()
    name = folder.name if not folder.name.startswith("checkpoint-") else f"{folder.parent.name}-{folder.name}"
    return name if name != base_name(located) else f"{name}-tuned"


def served_adapters(config: Config, located: Located, taken: Collection[str]) -> dict[str, Path]:
    """`serve_adapters`, checked. Raises: ConfigError when one cannot stand beside what is loaded."""
    wanted = {str(name): Path(str(path)).expanduser() for name, path in (config.serve_adapters or {}).items()}
    if wanted and not located.adapters:
        raise ConfigError(
            "serve_adapters needs an adapter to stand beside",
            why="the model is loaded without one",
            fix="name one of them in adapter_name_or_path",
        )
    for name, folder in wanted.items():
        problem = adapter_problem(folder)
        if problem or name in taken or name == PEFT_NAME:
            raise ConfigError(
                f"serve_adapters: {name} cannot be served",
                why=problem or "the name is taken",
                fix=f"give the folder of an adapter, and a name other than {', '.join((*taken, PEFT_NAME))}",
            )
    return wanted
