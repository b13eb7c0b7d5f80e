"""Open what a configuration names for talking: model with adapters, renderer, engine, checked against each other.

Used by chat and export alike, so that what is exported is what was tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

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
    from tunesmith.infer.opening import open_engine  # loads torch, which a mistake above need not wait for

    located = locate(resolved)
    config = replace(resolved.config, model_name_or_path=located.model)
    config, template_note = with_template_of_run(config, located)
    renderer = open_renderer(config, located)
    say(f"talking to: {located.describe()}")
    engine, base_notes = open_engine(config, located, renderer)
    template_notes = [template_note] if template_note else []
    notes = (*located.notes, *base_notes, *_effect_notes(located), *template_notes, *renderer.notes)
    return Session(engine, renderer, config, located, notes)


def open_renderer(config: Config, located: Located) -> Renderer:
    """The renderer of a located model, held to the render contract of the run that tuned it.

    Raises: TemplateError when a prompt would not have the tokens it had in training.
    """
    from tunesmith.model.load import load_tokenizer, model_folder

    contract = _stored_contract(located)
    config, note = with_template_of_run(config, located)
    tokenizer = load_tokenizer(replace(config, adapter_name_or_path=located.adapters))
    renderer = load_renderer(config, tokenizer, read_model_config(model_folder(config)).get("model_type"))
    if not renderer.stop_ids:
        raise TemplateError(
            f"template {renderer.template_name} names no token that ends an answer",
            why="The model would talk until max_new_tokens.",
            fix="Choose another template (tunesmith template list).",
        )
    if contract is not None:
        check_contract(contract, renderer)
    renderer.notes += [note] if note else []
    return renderer


def _stored_contract(located: Located) -> dict[str, Any] | None:
    """The render contract of the run that a model comes from, where there is one."""
    file = None if located.run_dir is None else located.run_dir / RENDER_CONTRACT
    return json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else None


def with_template_of_run(config: Config, located: Located) -> tuple[Config, str]:
    """Where no template is named: the one that the run was trained with, and a note that says so."""
    template = (_stored_contract(located) or {}).get("template", {})
    if config.template is not None or template.get("source") != "template":
        return config, ""
    name = str(template["name"])
    return replace(config, template=name), f"template: {name}, with which this model was trained"


def _effect_notes(located: Located) -> list[str]:
    """A warning for each adapter that changes nothing, so that nobody judges the base in its place."""
    from tunesmith.model.adapters import has_effect

    return [
        f"the adapter {name} changes nothing: all its updates are zero"
        for name in located.adapters
        if not has_effect(name)
    ]
