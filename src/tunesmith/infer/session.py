"""Open what a configuration names for talking: model with adapters, renderer, engine, checked against each other.

Used by chat and export alike, so that what is exported is what was tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.errors import TemplateError
from tunesmith.infer.engine import Engine
from tunesmith.infer.locate import Located, locate
from tunesmith.model.verify import read_model_config
from tunesmith.render import Renderer, load_renderer
from tunesmith.render.contract import check_contract

RENDER_CONTRACT = "render_contract.json"


@dataclass(frozen=True)
class Session:
    """A model that is ready to answer.

    Attributes:
        config: the configuration with the model that was found in place of the one that was named.
        notes: what the user should know: what was found, what was repaired.
    """

    engine: Engine
    renderer: Renderer
    config: Config
    located: Located
    notes: tuple[str, ...]


def open_session(resolved: Resolved, say: Callable[[str], None] = lambda line: None) -> Session:
    """Load what `resolved` names.

    Args:
        say: told one line before the slow part, so that a user sees what is being loaded.

    Raises:
        ModelError: nothing usable is there, or an adapter does not fit the model.
        TemplateError: the template is not the one the run was trained with.
    """
    if resolved.config.infer_backend == "llamacpp":
        from tunesmith.infer.llamacpp_open import open_llamacpp

        return open_llamacpp(resolved, say)
    located = locate(resolved)
    config = replace(resolved.config, model_name_or_path=located.model)
    renderer = open_renderer(config, located)
    say(f"talking to: {located.describe()}")
    engine, base_notes = _open_engine(config, located, renderer)
    notes = (*located.notes, *base_notes, *_effect_notes(located), *renderer.notes)
    return Session(engine, renderer, config, located, notes)


def open_renderer(config: Config, located: Located) -> Renderer:
    """The renderer of a located model, held to the render contract of the run that tuned it.

    Raises: TemplateError when a prompt would not have the tokens it had in training.
    """
    from tunesmith.model.load import load_tokenizer, model_folder

    tokenizer = load_tokenizer(replace(config, adapter_name_or_path=located.adapters))
    renderer = load_renderer(config, tokenizer, read_model_config(model_folder(config)).get("model_type"))
    if not renderer.stop_ids:
        raise TemplateError(
            f"template {renderer.template_name} names no token that ends an answer",
            why="The model would talk until max_new_tokens.",
            fix="Choose another template (tunesmith template list).",
        )
    if located.run_dir is not None:
        stored = located.run_dir / RENDER_CONTRACT
        if stored.is_file():
            check_contract(json.loads(stored.read_text(encoding="utf-8")), renderer)
    return renderer


def _open_engine(config: Config, located: Located, renderer: Renderer) -> tuple[Engine, list[str]]:
    """The engine, and what the user should know about its base model, positions and attention."""
    import torch

    from tunesmith.infer.hf import HFEngine
    from tunesmith.model.load import check_base_model, load_for_inference, model_options

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    named = replace(config, adapter_name_or_path=located.adapters)
    notes = check_base_model(named, torch.device(device), for_training=False)
    notes += model_options(config, for_training=False, adapters=located.adapters, device=device)[1]
    return HFEngine(load_for_inference(config, located.adapters, device), renderer.tokenizer), notes


def _effect_notes(located: Located) -> list[str]:
    """A warning for each adapter that changes nothing, so that nobody judges the base in its place."""
    from tunesmith.model.adapters import has_effect

    return [
        f"the adapter {name} changes nothing: all its updates are zero"
        for name in located.adapters
        if not has_effect(name)
    ]
