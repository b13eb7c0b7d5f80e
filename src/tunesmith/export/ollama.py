"""A Modelfile for Ollama: which file, how turns are written, where answers end, how to sample.

Ollama prompts a model through a template in Go's language. It is written from the same slots that training used, then
evaluated here (`go_template.py`) and compared with the renderer's prompts, so that `ollama create` gives a model
that is prompted as it was trained. Ollama itself puts the begin token in front where the file asks for it. Tools are
not written: Go spells their JSON with other spaces and another order of keys than training did.
Reference: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.export.go_template import go_template, render_go
from tunesmith.infer.engine import sampling_from_config
from tunesmith.render import Renderer
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.probes import CONTRACT_PROBES, Probe
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import templates
from tunesmith.types import Message

MODELFILE = "Modelfile"


def write_modelfile(config: Config, renderer: Renderer, folder: Path, file: str, problems: list[str]) -> dict[str, Any]:
    """Write `Modelfile` for `file` into `folder`; returns what was compared, for the proof.

    A template that cannot be said in Go's language is left out, with a comment in the file: Ollama then uses the chat
    template inside the GGUF file, as far as it knows it. `problems` gets a sentence when a written one is wrong.
    """
    adds_bos, context = _facts(folder / file)
    dialect = slot_dialect_of(renderer)
    bos, eos = renderer.tokenizer.bos_token or "", renderer.tokenizer.eos_token or ""
    template = go_template(dialect, bos, eos, adds_bos=adds_bos) if dialect else None
    compared = _compared(renderer, dialect, template, adds_bos) if dialect and template else {}
    wrong = [name for name, is_equal in compared.items() if not is_equal]
    if wrong:
        template, reason = None, f"conversations it would write differently: {', '.join(wrong)}"
    else:
        reason = "" if template else f"the template {renderer.template_name} has no form in Go's language"
    text = modelfile(config, renderer, dialect, template, file=file, context=context, reason=reason)
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    again = (folder / MODELFILE).read_text(encoding="utf-8")
    if template is not None and f'TEMPLATE """{template}"""' not in again:
        problems.append("the template in Modelfile is not the one that was compared")
    return {"template": template is not None, "reason": reason, "conversations": compared, "adds_bos": adds_bos}


def modelfile(
    config: Config,
    renderer: Renderer,
    dialect: SlotDialect | None,
    template: str | None,
    *,
    file: str,
    context: int,
    reason: str = "",
) -> str:
    """The text of a Modelfile. `reason`: why there is no template, for a comment."""
    lines = [f"FROM ./{file}"]
    lines += [f'TEMPLATE """{template}"""'] if template else [f"# No TEMPLATE: {reason}."]
    if template and dialect and dialect.template.trims:
        lines.insert(
            1, "# Whitespace around a turn's words is kept: Go has no function that strips it, as training did."
        )
    system = str(dialect.describe()["default_system"] or "") if dialect and template else ""
    lines += [f'SYSTEM """{system}"""'] if system and '"""' not in system else []
    sampling = sampling_from_config(config, renderer.stop_ids)
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in renderer.stop_texts]
    lines += [
        f"PARAMETER temperature {0 if sampling.greedy else sampling.temperature}",
        f"PARAMETER top_p {sampling.top_p}",
        f"PARAMETER top_k {sampling.top_k}",
        f"PARAMETER repeat_penalty {sampling.repetition_penalty}",
        f"PARAMETER num_ctx {context}",
    ]
    lines += [f"PARAMETER num_predict {sampling.max_new_tokens}"] if sampling.max_new_tokens else []
    return "\n".join(lines) + "\n"


def slot_dialect_of(renderer: Renderer) -> SlotDialect | None:
    """The renderer's layout as slots: its own, or the table entry that renders the probes as its Jinja does."""
    if isinstance(renderer.dialect, SlotDialect):
        return renderer.dialect
    tokenizer = renderer.tokenizer
    for template in templates().values():
        dialect = SlotDialect(template, tokenizer.bos_token or "", tokenizer.eos_token or "", RenderSettings())
        if dialect.end_text == renderer.dialect.end_text and all(
            _is_prompt(renderer, probe.question, dialect.prompt_text(probe.question)) for probe in _plain_probes()
        ):
            return dialect
    return None


def _plain_probes() -> Sequence[Probe]:
    return [probe for probe in CONTRACT_PROBES if not any(message.reasoning for message in probe.messages)]


def _compared(renderer: Renderer, dialect: SlotDialect, template: str, adds_bos: bool) -> dict[str, bool]:
    """For each probe, whether the Go template gives the renderer's prompt."""
    begin = (renderer.tokenizer.bos_token or "") if adds_bos else ""
    default = str(dialect.describe()["default_system"] or "")
    compared = {}
    for probe in _plain_probes():
        words = [replace(turn, content=_shown(turn, dialect)) for turn in probe.question]
        text = begin + render_go(template, _with_system(words, default))
        compared[probe.name] = _is_prompt(renderer, words, text)
    return compared


def _shown(turn: Message, dialect: SlotDialect) -> str:
    """A turn's words; stripped where training strips them and Go cannot, so that the rest is compared."""
    return turn.content.strip() if turn.role in dialect.template.trims else turn.content


def _with_system(messages: list[Message], default: str) -> list[Message]:
    """The messages that Ollama gives the template: SYSTEM is put in front where the conversation has none."""
    return messages if not default or messages[0].role == "system" else [Message("system", default), *messages]


def _is_prompt(renderer: Renderer, messages: Sequence[Message], text: str) -> bool:
    from tunesmith.errors import DataError

    try:
        return renderer.prompt_text(messages) == text
    except DataError:  # the model's own template refuses this conversation: nothing to be equal to
        return True


def _facts(file: Path) -> tuple[bool, int]:
    """(whether the begin token is added by whoever tokenizes, the context that the model was trained with)."""
    from tunesmith.infer.llamacpp_native import NativeModel

    model = NativeModel(file, max_length=64)
    try:
        return model.adds_bos, model.trained_length
    finally:
        model.close()
