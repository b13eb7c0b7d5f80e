"""The reference page and the JSON schema, both made from the options themselves, so that neither can be out of date.

`markdown()` is docs/configuration.md, English and Chinese side by side; `json_schema()` is for editors (draft 2020-12).
"""

from __future__ import annotations

from typing import Any

from tunesmith.config.cast import show
from tunesmith.config.load import aliases
from tunesmith.config.older import REMOVED
from tunesmith.config.rules import RULES
from tunesmith.config.schema import specs
from tunesmith.config.spec import FieldSpec, Kind

_INTRO = """\
# Configuration / 配置参数

<!-- Made by `tunesmith config reference`; do not edit. 由 `tunesmith config reference` 生成，请勿手改。 -->

Every key of a training file, with its default. Keys keep the names of LLaMA-Factory and of the Hugging Face training
arguments. Write them in a YAML or JSON file, or on the command line as `key=value`, `--key value` or bare `--flag`;
the command line wins. A key that is not listed here is an error. `tunesmith config show FILE` prints what a file comes
to, value by value, and where each value is from.

训练文件的全部参数及其默认值。名称沿用 LLaMA-Factory 和 Hugging Face 训练参数。可写在 YAML 或 JSON 文件中，
也可在命令行写成 `key=value`、`--key value` 或单独的 `--flag`；命令行优先。未列出的参数会报错。
`tunesmith config show FILE` 会逐项显示文件的实际取值及其来源。

- **not yet / 暂不支持**: any other value than the default is refused. 只接受默认值，设为其他值会报错。
- **no effect / 不起作用**: accepted, so that existing files run; the reason is given.
  可以填写，但不起作用，并说明原因。
"""

_KIND_NAMES: dict[Kind, str] = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "text",
    "dict": "mapping",
    "strs": "list",
    "floats": "list of numbers",
}


def markdown() -> str:
    """The whole reference page."""
    parts = [_INTRO, _contents()]
    for name in _group_names():
        members = [spec for spec in specs().values() if spec.group.name == name]
        parts.append(_section(members))
    return "\n".join([*parts, _rules(), _older()])


def _group_names() -> list[str]:
    return list(dict.fromkeys(spec.group.name for spec in specs().values()))


def _contents() -> str:
    groups = {spec.group.name: spec.group for spec in specs().values()}
    lines = [f"- [{_title(group.en, group.zh)}](#{name})" for name, group in groups.items()]
    return "\n".join([*lines, "- [Rules / 规则](#rules)", "- [Older spellings / 旧写法](#older-spellings)", ""])


def _title(en: str, zh: str) -> str:
    return en if en == zh else f"{en} / {zh}"


def _section(members: list[FieldSpec]) -> str:
    group = members[0].group
    lines = [
        f'<a id="{group.name}"></a>',
        f"## {_title(group.en, group.zh)}",
        "",
        "| key | type | default | meaning | 含义 |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(spec) for spec in members]
    return "\n".join([*lines, ""])


def _row(spec: FieldSpec) -> str:
    kinds = " or ".join(_KIND_NAMES[kind] for kind in spec.kinds)
    default = "" if spec.default in (None, ()) else f"`{show(spec.default)}`"
    en, zh = _meaning(spec, chinese=False), _meaning(spec, chinese=True)
    return "| " + " | ".join(_cell(text) for text in (f"`{spec.name}`", kinds, default, en, zh)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _meaning(spec: FieldSpec, *, chinese: bool) -> str:
    """Help, then values and bounds, then what does not exist or has no effect."""
    now, later = _choices(spec, later=False), _choices(spec, later=True)
    readers = ", ".join(spec.methods) if not {"lora", "oft"} >= set(spec.methods) else ""
    sentences = (
        (True, spec.en, spec.zh),
        (now, f"One of {', '.join(now)}.", f"可选：{'、'.join(now)}。"),
        (later, f"Not yet: {', '.join(later)}.", f"暂不支持：{'、'.join(later)}。"),
        (spec.bounds(), f"{spec.bounds().capitalize()}.", f"范围：{_bounds_zh(spec)}。"),
        (readers, f"Read by {readers} only.", f"仅用于 {readers}。"),
        (spec.later, f"**Not yet**: {spec.later}.", "**暂不支持。**"),
        (spec.noop, f"**No effect**: {spec.noop}.", "**不起作用。**"),
    )
    return " ".join(zh if chinese else en for applies, en, zh in sentences if applies)


def _choices(spec: FieldSpec, *, later: bool) -> list[str]:
    return [f"`{choice}`" for choice in spec.choices if (str(choice) in spec.later_choices) == later]


def _bounds_zh(spec: FieldSpec) -> str:
    pairs = (("≥", spec.ge), (">", spec.gt), ("≤", spec.le), ("<", spec.lt))
    return "，".join(f"{sign} {bound:g}" for sign, bound in pairs if bound is not None)


def _rules() -> str:
    lines = [
        '<a id="rules"></a>',
        "## Rules / 规则",
        "",
        "What is checked between keys before anything is loaded. 在加载任何内容之前检查的参数间约束。",
        "",
        "| rule | keys | verbs | otherwise |",
        "|---|---|---|---|",
    ]
    for rule in RULES:
        keys = ", ".join(f"`{key}`" for key in rule.keys)
        lines.append(f"| {rule.name} | {keys} | {', '.join(rule.verbs)} | {_cell(rule.fix)} |")
    return "\n".join([*lines, ""])


def _older() -> str:
    lines = ['<a id="older-spellings"></a>', "## Older spellings / 旧写法", ""]
    lines += ["Read as the newer key, with a note. 按新名称读取，并给出提示。", "", "| older | now |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in sorted(aliases().items())]
    values = [(spec.name, old, new) for spec in specs().values() for old, new in spec.older_values.items()]
    lines += [f"| `{name}: {old}` | `{name}: {new}` |" for name, old, new in values]
    lines += [
        "",
        "Refused, with what takes their place. 已取消，报错时会说明替代写法。",
        "",
        "| gone | instead |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {_cell(text)} |" for name, text in sorted(REMOVED.items())]
    return "\n".join([*lines, ""])


def json_schema() -> dict[str, Any]:
    """The JSON schema of a training file. Lists may be written with commas or as arrays."""
    properties: dict[str, Any] = {name: _property(spec) for name, spec in specs().items()}
    for alias, name in aliases().items():
        properties[alias] = {
            "$ref": f"#/properties/{name}",
            "deprecated": True,
            "description": f"Older spelling of {name}. {name} 的旧写法。",
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tunesmith training file",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _property(spec: FieldSpec) -> dict[str, Any]:
    kinds = [_kind_schema(kind, spec) for kind in spec.kinds]
    kinds += [{"type": "string"}] if spec.is_list else []
    kinds += [{"type": "null"}] if spec.optional or spec.is_list else []
    entry: dict[str, Any] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
    return {**entry, "default": default, "description": f"{_plain_help(spec)} {spec.zh}"}


def _plain_help(spec: FieldSpec) -> str:
    if spec.later:
        return f"Not yet: {spec.later}. {spec.en}"
    return f"No effect: {spec.noop}. {spec.en}" if spec.noop else spec.en


def _kind_schema(kind: Kind, spec: FieldSpec) -> dict[str, Any]:
    choices = [choice for choice in spec.choices if str(choice) not in spec.later_choices]
    if kind in ("strs", "floats"):
        item = {"enum": choices} if choices else {"type": "string" if kind == "strs" else "number"}
        return {"type": "array", "items": item}
    if choices and kind != "bool":
        return {"enum": choices}
    types = {"bool": "boolean", "int": "integer", "float": "number", "str": "string", "dict": "object"}
    schema: dict[str, Any] = {"type": types[kind]}
    if kind in ("int", "float"):
        names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        schema |= {word: getattr(spec, name) for name, word in names.items() if getattr(spec, name) is not None}
    return schema
