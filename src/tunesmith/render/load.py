"""Chooses the template for a model and makes its renderer.

`template: NAME` takes a table entry; without it the model's own Jinja template is used. Everything that is chosen or
mended on the way is in `Renderer.notes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.errors import TemplateError
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.encode import Encoder
from tunesmith.render.renderer import Renderer
from tunesmith.render.repair import check_required_tokens, repair_tokenizer
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import get_template

if TYPE_CHECKING:
    from tunesmith.config import Config

_BY_MODEL_TYPE = {
    "qwen2": "qwen",
    "qwen3": "qwen3",
    "llama": "llama3",
    "mistral": "mistral",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "deepseek_v3": "deepseek3",
    "glm4": "glm4",
    "glm": "glm4",
    "phi3": "phi",
}
"""What to suggest for a model without a template of its own, by the `model_type` of its config.json."""


def load_renderer(config: Config, tokenizer: Any, model_type: str | None = None) -> Renderer:
    """The renderer of a run.

    Args:
        config: read for `template`, `default_system`, `enable_thinking`, `preserve_thinking`, `tool_format`, `stage`.
        tokenizer: a transformers tokenizer; its end and padding token are mended in place where they are wrong.
        model_type: of the model's config.json, for a better suggestion.

    Raises: TemplateError when the template is unknown, does not fit the vocabulary, or there is none.
    """
    settings = RenderSettings(
        config.default_system, config.enable_thinking, config.preserve_thinking, config.tool_format
    )
    if config.template:
        return make_renderer(tokenizer, config.template, settings)
    if tokenizer.chat_template:
        return make_renderer(tokenizer, None, settings)
    if config.stage == "pt":
        return make_renderer(tokenizer, "empty", settings)
    suggestion = _BY_MODEL_TYPE.get(model_type or "", "default")
    raise TemplateError(
        "the model brings no chat template, and `template` is not set",
        where="template",
        why="without one nothing says how turns are written and where an answer ends",
        fix=f"set `template: {suggestion}`"
        + ("" if suggestion == "default" else " (or `default`, for a base model)")
        + "; `tunesmith template list` shows all",
    )


def make_renderer(tokenizer: Any, template_name: str | None, settings: RenderSettings | None = None) -> Renderer:
    """A renderer for `template_name`, or for the tokenizer's own Jinja template when it is None.

    Raises: TemplateError as `load_renderer`.
    """
    settings = settings or RenderSettings()
    if template_name is None:
        return _jinja_renderer(tokenizer, settings)
    template = get_template(template_name)
    dialect = SlotDialect(template, tokenizer.bos_token or "", tokenizer.eos_token or "", settings)
    encoder = Encoder(tokenizer, dialect.control_texts, dialect.thinking_texts)
    check_required_tokens(template.name, template.required_tokens, encoder)
    end_is_eos = not template.end_opens_next_turn
    notes = repair_tokenizer(tokenizer, encoder, dialect.end_text, end_is_eos=end_is_eos)
    return Renderer(tokenizer, dialect, encoder, notes)


def _jinja_renderer(tokenizer: Any, settings: RenderSettings) -> Renderer:
    from tunesmith.render.jinja import JinjaDialect

    source = tokenizer.get_chat_template()
    dialect = JinjaDialect(source, _special_tokens(tokenizer), settings, Encoder(tokenizer).control_tokens)
    encoder = Encoder(tokenizer, dialect.stop_texts, dialect.thinking_texts)
    notes = repair_tokenizer(tokenizer, encoder, dialect.end_text, end_is_eos=not dialect.end_opens_next_turn)
    return Renderer(tokenizer, dialect, encoder, notes)


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    return {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
