"""Several models on one set of base weights: adapters by name, and the base itself.

A name that is asked for acts until another one is: switching walks over all adapted layers, so the engine groups what
it does by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunesmith.errors import ModelError, did_you_mean


class Lanes:
    """A model and the names under which it answers.

    Args:
        model: a transformers model, or PEFT's around one, in evaluation mode.
        adapters: name -> PEFT's name of the adapter that acts under it, None for the base alone. The first name is
            the default.
    """

    def __init__(self, model: Any, adapters: Mapping[str, str | None]) -> None:
        self.model = model
        self._adapters = dict(adapters)
        self._acting: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the default first."""
        return tuple(self._adapters)

    def check(self, name: str | None) -> str:
        """The name that is meant; None means the first. Raises: ModelError for an unknown one."""
        if name is None:
            return self.names[0]
        if name not in self._adapters:
            hint = did_you_mean(name, self._adapters)
            raise ModelError(f"no model '{name}' is served", fix=f"{hint} Served: {', '.join(self.names)}.".strip())
        return name

    @contextmanager
    def acting(self, name: str) -> Iterator[Any]:
        """The model, as `name` inside the block (and after it, until another is asked for)."""
        if name != self._acting:
            self._switch(self._adapters[name])
            self._acting = name
        yield self.model

    def _switch(self, adapter: str | None) -> None:
        if not hasattr(self.model, "peft_config"):
            return
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
            return
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(adapter, inference_mode=True)
