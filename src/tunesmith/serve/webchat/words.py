"""What the page says, in English and Chinese, side by side."""

from __future__ import annotations

LANGUAGES = ("en", "zh")

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Tunesmith chat", "Tunesmith 对话"),
    "model": ("Model", "模型"),
    "compare": ("Compare two models", "双模型对比"),
    "other_language": ("中文", "English"),
    "message": (
        "Write a message. Enter sends, Shift+Enter begins a new line.",
        "输入消息，Enter 发送，Shift+Enter 换行",
    ),
    "send": ("Send", "发送"),
    "stop": ("Stop", "停止"),
    "retry": ("Answer anew", "重新回答"),
    "undo": ("Take back", "撤回"),
    "clear": ("New conversation", "新对话"),
    "empty": ("Ask something to begin.", "发送一条消息，开始对话。"),
    "better": ("Which answer is better?", "哪个回答更好？"),
    "left": ("The left one", "左边更好"),
    "right": ("The right one", "右边更好"),
    "tool_result": ("Result of", "工具返回结果："),
    "tool_send": ("Answer as the tool", "以工具身份回复"),
    "tool_hint": ("What the tool gives back: text or JSON.", "工具的返回内容：文本或 JSON"),
    "settings": ("Settings", "设置"),
    "system": ("System text", "系统提示词"),
    "system_hint": ("How the model should behave.", "设定模型的角色与行为"),
    "sampling": ("Sampling", "生成参数"),
    "max_new_tokens": ("Longest answer (tokens)", "最大生成长度（token）"),
    "do_sample": ("Draw at random (do_sample)", "随机采样（do_sample）"),
    "temperature": ("Temperature", "温度系数"),
    "top_p": ("Top-p", "Top-p 采样值"),
    "top_k": ("Top-k (0: all)", "Top-k（0 为不限）"),
    "repetition_penalty": ("Repetition penalty", "重复惩罚"),
    "seed": ("Seed (-1: another each time)", "随机种子（-1 为每次随机）"),
    "thinking": ("Let the model think first", "启用思考模式"),
    "markdown": ("Show Markdown as layout", "渲染 Markdown"),
    "tools": ("Tools", "工具"),
    "tools_json": ("Tool list (JSON)", "工具列表（JSON）"),
    "tools_hint": (
        '[{"name": "get_weather", "description": "...", "parameters": {"type": "object", "properties": {...}}}]',
        '[{"name": "get_weather", "description": "...", "parameters": {"type": "object", "properties": {...}}}]',
    ),
    "tools_none": ("No tools.", "未提供工具。"),
    "tools_ok": ("Tools: ", "可用工具："),
    "conversation": ("Conversation", "会话"),
    "save": ("Save", "保存"),
    "load": ("Load", "载入"),
    "about": ("About this model", "模型信息"),
    "votes": ("Votes", "评价"),
    "votes_where": (
        "Votes, edits and choices are appended to `{path}`, and nothing else is. "
        "`tunesmith feedback {path} --as kto` (or `dpo`, `sft`) turns them into training rows.",
        "点赞、点踩、修改与对比选择会追加写入 `{path}`，除此之外不记录任何内容。"
        "运行 `tunesmith feedback {path} --as kto`（或 `dpo`、`sft`）可转换为训练数据。",
    ),
    "votes_written": ("{count} written since the start.", "本次启动后已写入 {count} 条。"),
    "voted": ("Vote written.", "评价已记录。"),
    "vote_gone": ("Vote taken back.", "评价已撤回。"),
    "edit_written": ("Edit written to the feedback file.", "修改已记录。"),
    "edit_texts_only": (
        "Only texts can be changed, not thoughts or calls.",
        "只能修改文本，不能修改思考过程或工具调用。",
    ),
    "chosen": ("Choice written. Both go on from this answer.", "选择已记录，双方将从该回答继续。"),
    "thought": ("Thought", "思考过程"),
    "thinks": ("Thinking", "思考中"),
    "calls": ("Calls", "调用工具"),
    "result": ("Result", "工具结果"),
    "said_nothing": ("(empty answer)", "（空回答）"),
    "waiting": ("Reading the conversation", "正在读取对话"),
    "cut": ("The answer reached the token limit.", "回答已达到长度上限。"),
    "stopped": ("Stopped.", "已停止。"),
    "tokens": ("{count} tokens, {rate} per second", "{count} 个 token，每秒 {rate} 个"),
}


def word(key: str, lang: str, **values: object) -> str:
    """A text of the page in a language, its `{placeholders}` filled."""
    text = WORDS[key][LANGUAGES.index(lang)]
    return text.format(**values) if values else text


def language_of(accepted: str, default: str) -> str:
    """The first of the languages that a browser accepts (header Accept-Language) that the page has."""
    for part in accepted.split(","):
        tag = part.split(";")[0].strip().lower()[:2]
        if tag in LANGUAGES:
            return tag
    return default
