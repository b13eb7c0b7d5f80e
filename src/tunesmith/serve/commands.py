"""The commands of the terminal chat: one function each, a literal table, and what /help says in two languages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tunesmith.errors import ConfigError, did_you_mean
from tunesmith.serve.dialogue import Dialogue, Leave
from tunesmith.serve.lines import read_message
from tunesmith.serve.screen import call_text
from tunesmith.serve.settings import change, describe, read_switch
from tunesmith.serve.transcript import append, conversation_row, load_last, read_text, read_tools
from tunesmith.serve.turns import edited, open_calls, system_only, up_to_question, with_system, without_last_question
from tunesmith.types import Message

HELP = {
    "en": '''\
/clear            forget the conversation (the system text stays)
/system TEXT      set the system text and start anew; without TEXT: remove it
/tools FILE.json  tools that the model may call; you type their results; /tools off: none
/set key=value    change temperature, top_p, top_k, max_new_tokens, do_sample, repetition_penalty, seed
/think on|off     let the model think first, where its template knows thoughts
/retry            answer the last question anew
/edit [TEXT]      change the last question and ask it anew
/edit answer [TEXT]  put other words into the model's mouth, and go on from there
/undo             take the last question and its answer back
/model [NAME]     who answers; without NAME: who can
/compare on|off   ask a second model too (/compare NAME: which); the conversation goes on with the first
/save FILE.jsonl  append the conversation to a file, as one line of OpenAI messages
/load FILE.jsonl  go on from the last conversation of a file
/help             this list
/exit             leave (also: exit, Ctrl-D)
Several lines: end a line with \\, or write """ before and after them, or paste them.''',
    "zh": '''\
/clear            清空对话（保留系统提示词）
/system 文本      设置系统提示词并重新开始；不带文本则删除
/tools 文件.json  提供可调用的工具，工具结果由你输入；/tools off 取消
/set 参数=值      修改 temperature、top_p、top_k、max_new_tokens、do_sample、repetition_penalty、seed
/think on|off     开启或关闭思考模式（模板支持时）
/retry            重新回答上一个问题
/edit [文本]      修改上一个问题并重新提问
/edit answer [文本]  修改模型的上一个回答，并由此继续
/undo             撤回上一轮问答
/model [名称]     选择由哪个模型回答；不带名称则列出全部
/compare on|off   同时询问另一个模型（/compare 名称 可指定）；对话以第一个模型的回答继续
/save 文件.jsonl  将对话追加保存为一行 OpenAI 格式的消息
/load 文件.jsonl  载入文件中最后一段对话并继续
/help             显示本列表
/exit             退出（也可输入 exit 或按 Ctrl-D）
多行输入：行尾加 \\，或用 """ 包住，或直接粘贴。''',
}


def clear(dialogue: Dialogue, _: str) -> None:
    """Forget all turns but the system text."""
    dialogue.history = system_only(dialogue.history)
    dialogue.remark("(conversation cleared)")


def system(dialogue: Dialogue, text: str) -> None:
    """Set the system text, or remove it, and start anew."""
    dialogue.history = with_system((), text)
    dialogue.remark("(system text set, conversation cleared)" if text else "(system text removed)")


def tools(dialogue: Dialogue, name: str) -> None:
    """Read tools from a file; tell which there are; or give them up."""
    if name == "off":
        dialogue.tools = ()
    elif name:
        dialogue.tools = read_tools(read_text(Path(name).expanduser()), name)
    names = ", ".join(tool.name for tool in dialogue.tools)
    dialogue.remark(f"(tools: {names})" if names else "(no tools)")


def set_value(dialogue: Dialogue, assignment: str) -> None:
    """Change one sampling setting; show all."""
    if assignment:
        dialogue.params, key = change(dialogue.params, assignment)
        dialogue.num_answers = 0 if key == "seed" else dialogue.num_answers
    dialogue.remark(describe(dialogue.params))


def think(dialogue: Dialogue, text: str) -> None:
    """Thinking on or off. Raises: ConfigError where the template has no such choice."""
    if not dialogue.renderers.can_think:
        raise ConfigError(
            f"the template {dialogue.renderer.template_name} knows no thoughts", fix="Nothing needs to be switched."
        )
    if text:
        dialogue.thinking = read_switch("/think", text)
    is_on = dialogue.renderers.thinks if dialogue.thinking is None else dialogue.thinking
    dialogue.remark(f"(thinking: {'on' if is_on else 'off'})")


def retry(dialogue: Dialogue, _: str) -> None:
    """Answer the last question anew."""
    dialogue.answer(up_to_question(dialogue.history))


def edit(dialogue: Dialogue, text: str) -> None:
    """Change the last question and ask it anew, or change the last answer."""
    word, _, rest = text.partition(" ")
    if word == "answer":
        _edit_answer(dialogue, rest.strip())
        return
    before, question = without_last_question(dialogue.history)
    dialogue.answer((*before, Message("user", text or _typed(dialogue, question))))


def _edit_answer(dialogue: Dialogue, text: str) -> None:
    before = up_to_question(dialogue.history)
    place = len(before)
    new_text = text or _typed(dialogue, dialogue.history[place].content)
    dialogue.history = edited(dialogue.history, place, new_text)
    dialogue.remark("(answer changed)")


def _typed(dialogue: Dialogue, old: str) -> str:
    """A new text that the user types, beginning with the old one. Raises: ConfigError when it is empty."""
    text = read_message(
        lambda prompt="", prefill="": dialogue.read_line(prompt, prefill or (old if prompt == "> " else "")),
        "> ",
        dialogue.has_more,
    ).strip()
    if not text:
        raise ConfigError("nothing was changed", why="the new text is empty", fix="/edit TEXT")
    return text


def undo(dialogue: Dialogue, _: str) -> None:
    """Take the last question back, and all that followed."""
    dialogue.history, question = without_last_question(dialogue.history)
    dialogue.remark(f"(taken back: {question})")


def model(dialogue: Dialogue, name: str) -> None:
    """Choose who answers, or list who can."""
    if name:
        dialogue.model = _known(dialogue, name)
    current = dialogue.model or dialogue.engine.models[0]
    dialogue.remark("\n".join(f"{'*' if known == current else ' '} {known}" for known in dialogue.engine.models))


def compare(dialogue: Dialogue, name: str) -> None:
    """Ask a second model too, or no longer. Raises: ConfigError when there is no second one."""
    if not name or (name not in dialogue.engine.models and not read_switch("/compare", name)):
        dialogue.compared = None
        dialogue.remark("(one model answers)")
        return
    current = dialogue.model or dialogue.engine.models[0]
    others = [known for known in dialogue.engine.models if known != current]
    if not others:
        raise ConfigError("there is only one model", why="an adapter and its base can be compared")
    dialogue.compared = name if name in others else others[0]
    dialogue.remark(f"({current} beside {dialogue.compared}; the conversation goes on with {current})")


def _known(dialogue: Dialogue, name: str) -> str:
    names = dialogue.engine.models
    if name not in names:
        raise ConfigError(f"no model '{name}'", fix=f"{did_you_mean(name, names)} Models: {', '.join(names)}.".strip())
    return name


def save(dialogue: Dialogue, name: str) -> None:
    """Append the conversation to a JSON lines file. Raises: ConfigError when it cannot be written."""
    if not name or not any(message.role == "assistant" for message in dialogue.history):
        raise ConfigError(
            "nothing was saved", why="" if name else "No file is named.", fix="Talk first, then: /save chat.jsonl"
        )
    path = Path(name).expanduser()
    append(path, conversation_row(dialogue.history, dialogue.tools))
    dialogue.remark(f"(saved to {path})")


def load(dialogue: Dialogue, name: str) -> None:
    """Go on from a saved conversation. Raises: ConfigError when there is none."""
    if not name:
        raise ConfigError("no file is named", fix="/load chat.jsonl")
    conversation = load_last(Path(name).expanduser())
    dialogue.history, dialogue.tools = conversation.messages, conversation.tools
    dialogue.remark(f"({len(conversation.messages)} turns loaded)")
    for call in open_calls(dialogue.history):
        dialogue.remark(f"(the model calls {call_text(call)}: type the tool's result)")


def show_help(dialogue: Dialogue, _: str) -> None:
    """List the commands."""
    dialogue.remark(HELP[dialogue.lang])


def leave(dialogue: Dialogue, _: str) -> None:
    """End the chat."""
    raise Leave


COMMANDS: dict[str, Callable[[Dialogue, str], None]] = {
    "/clear": clear,
    "/system": system,
    "/tools": tools,
    "/set": set_value,
    "/think": think,
    "/retry": retry,
    "/edit": edit,
    "/undo": undo,
    "/model": model,
    "/compare": compare,
    "/save": save,
    "/load": load,
    "/help": show_help,
    "/exit": leave,
}
