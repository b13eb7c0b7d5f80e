"""`tunesmith template list | show NAME | check MODEL [--template NAME]`.

`list` and `show` need no model and load nothing heavy. `check` renders nearly a hundred conversations with a template
and with the model's own Jinja template and compares the tokens: exit code 0 when all are equal, 1 when one differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ConfigError, TemplateError

if TYPE_CHECKING:
    from tunesmith.render.compare import Comparison
    from tunesmith.render.template import Template

_MAX_SHOWN = 5
"""Names of refused conversations that are printed."""
_USAGE = "tunesmith template list | show NAME | check MODEL [--template NAME] [--enable_thinking true|false]"


def run(argv: list[str]) -> int:
    """Run the verb. Returns 0, or 1 when `check` found a difference. Raises: UserError for a mistake."""
    action, *rest = argv or ["list"]
    if action == "list" and not rest:
        return _list()
    if action == "show" and len(rest) == 1:
        return _show(rest[0])
    if action == "check" and rest:
        return _check(rest)
    raise ConfigError(f"cannot read: template {' '.join(argv)}", fix=_USAGE)


def _list() -> int:
    from tunesmith.render.template import templates

    rows = [("NAME", "FAMILY", "ENDS WITH", "ALSO STOPS AT", "THINKS")]
    for template in templates().values():
        stops = " ".join(template.stops) or "-"
        end = template.end.replace("{eos}", "the model's end token") or "nothing"
        rows.append((template.name, template.family, end, stops, "yes" if template.thinking else "-"))
    _print_table(rows)
    print("\n`tunesmith template show NAME` prints a layout. Without `template:` the model's own is used.")
    return 0


def _show(name: str) -> int:
    from tunesmith.render.dialect import RenderSettings
    from tunesmith.render.slots import SlotDialect
    from tunesmith.render.template import get_template
    from tunesmith.types import Message

    template = get_template(name)
    print(f"{template.name} (family {template.family})")
    _print_table(_slots(template))
    if template.notes:
        print(f"\n{template.notes}")
    dialect = SlotDialect(template, "<BOS>", "<EOS>", RenderSettings())
    talk = [Message("system", "SYSTEM"), Message("user", "QUESTION 1"), Message("assistant", "ANSWER 1")]
    talk.append(Message("user", "QUESTION 2"))
    answer = dialect.answer_text(talk, Message("assistant", "ANSWER 2"))
    print("\nthe prompt of a second answer (<BOS>, <EOS>: the model's begin and end token):")
    print(_indent(dialect.prompt_text(talk)))
    print("\nwhat is trained after it:")
    print(_indent(answer.taught))
    return 0


def _slots(template: Template) -> list[tuple[str, ...]]:
    names = ("prefix", "system", "user", "header", "answer", "end", "gap")
    filled = [name for name in names if getattr(template, name)]
    rows: list[tuple[str, ...]] = [(f"  {name}", repr(getattr(template, name))) for name in filled]
    rows.append(("  system goes", template.system_place.replace("_", " ")))
    for name in ("default_system", "stops", "required_tokens", "trims", "thinking"):
        if getattr(template, name):
            rows.append((f"  {name}", repr(getattr(template, name))))
    return rows


def _check(arguments: Sequence[str]) -> int:
    model, template_name, enable_thinking = _check_arguments(arguments)
    from tunesmith.config import Config
    from tunesmith.model.load import load_tokenizer
    from tunesmith.render.compare import compare_with_own
    from tunesmith.render.dialect import RenderSettings
    from tunesmith.render.load import make_renderer
    from tunesmith.render.probes import probe_conversations

    tokenizer = load_tokenizer(Config(model_name_or_path=model))
    if not tokenizer.chat_template:
        raise TemplateError(
            f"{model} brings no chat template to compare with",
            fix="check a chat model of the same family, or look at `tunesmith template show NAME`",
        )
    renderer = make_renderer(tokenizer, template_name, RenderSettings(enable_thinking=enable_thinking))
    for note in renderer.notes:
        print(f"note: {note}")
    variables: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    results = compare_with_own(renderer, probe_conversations(), **variables)
    return _report(renderer.template_name, results)


def _check_arguments(arguments: Sequence[str]) -> tuple[str, str | None, bool | None]:
    model, *rest = arguments
    options: dict[str, str] = {}
    while rest:
        key, _, value = rest.pop(0).partition("=")
        if not value and rest:
            value = rest.pop(0)
        options[key.removeprefix("--")] = value
    unknown = [key for key in options if key not in ("template", "enable_thinking")]
    if unknown or not all(options.values()):
        raise ConfigError(f"cannot read: template check {' '.join(arguments)}", fix=_USAGE)
    thinking = {"true": True, "false": False, None: True}.get(options.get("enable_thinking"))
    return model, options.get("template"), thinking


def _report(name: str, results: Iterable[Comparison]) -> int:
    by_verdict: dict[str, list[Comparison]] = {"equal": [], "differs": [], "refused": [], "typed": []}
    for result in results:
        by_verdict[result.verdict].append(result)
    differing = by_verdict["differs"]
    for result in differing:
        print(f"\n{result.probe}: token {result.position} differs")
        print(f"  {name}: {result.ours}\n  the model's own: {result.theirs}")
    if by_verdict["typed"]:
        print(
            f"\n{len(by_verdict['typed'])} conversations hold the text of a special token. It stays text here; "
            "`apply_chat_template` would make it a control token."
        )
    if by_verdict["refused"]:
        listed = "; ".join(result.probe for result in by_verdict["refused"][:_MAX_SHOWN])
        print(f"\n{len(by_verdict['refused'])} conversations the model's own template refuses: {listed}; ...")
    num_compared = len(by_verdict["equal"]) + len(differing)
    print(f"\n{name}: {len(by_verdict['equal'])} of {num_compared} conversations have the tokens of the model's own")
    return 1 if differing or not by_verdict["equal"] else 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.split("\n"))
