"""What a GGUF file is tried on, and the task that its proof reads: prompts with their tokens, texts with theirs.

The texts cover what pre-tokenizers treat differently: runs of digits, contractions, whitespace, scripts without spaces,
emoji of several code points, code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.config import Config
from tunesmith.config.schema import specs
from tunesmith.export.proof import PROMPTS
from tunesmith.infer.locate import Located
from tunesmith.render import Renderer
from tunesmith.render.probes import probe_conversations
from tunesmith.types import Message

NUM_PROMPTS = 20
_MORE = (
    "What is 3 * 14?",
    "List the first five prime numbers.",
    "Translate 'good evening' into French.",
    "Explain gravity to a child in one sentence.",
    "Write a Python function that reverses a string.",
    "What is the capital of Japan?",
    "Give me a synonym for 'quick'.",
    "中国的首都是哪里？",
    "写一句鼓励人的话。",
    "How many days are in a leap year?",
    "Complete the sentence: The sun rises in the",
    "Is 91 a prime number? Answer yes or no.",
)
GGUF_PROMPTS = tuple(dict.fromkeys((*PROMPTS, *_MORE)))[:NUM_PROMPTS]

_TEXTS = (
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 ２０２４",
    "x² + ½ y³ = ¾ ①② Ⅷ ٣٤ १२ ²³",
    "I'm you're he'd we'll they've SHE'S I'M",
    "  two  three   spaces\tand\ttabs \n\n\n and lines\r\n",
    "def f(x: int) -> str:\n\treturn f\"{x!r:>10}\" if x != 0 else '0'  # TODO\n",
    "我在苹果公司工作了1314151天，昨天是２０２４年５月１日。",
    "東京は日本の首都です。안녕하세요 세계! สวัสดีชาวโลก",
    "🚀🎉👩‍👩‍👧‍👦 🇨🇳 👍🏽 ✅ e\u0301 é ﬁ",
    "Привет, мир! مرحبا بالعالم שלום עולם",
    "https://example.org/a_b?c=d&e=%20#f user@example.org C:\\dir\\file.txt",
    "======= ------- !!!???... ((())) [[{}]] <tag/> $x^2_{i}$ ~~~",
)


def make_gguf_task(
    config: Config, located: Located, renderer: Renderer, files: Sequence[str], *, compute_dtype: str
) -> dict[str, Any]:
    """What the proof's process must know, JSON-able.

    Args:
        compute_dtype: in which the tuned model is computed for the comparison.
    """
    words = [message.content for probe in probe_conversations() for message in probe.messages]
    texts = [text for text in dict.fromkeys((*_TEXTS, *GGUF_PROMPTS, *words)) if text and len(text) < 4000]
    return {
        "config": {key: None if specs()[key].secret else value for key, value in config.__dict__.items()},
        "compute_dtype": compute_dtype,
        "dtype": compute_dtype if config.infer_dtype == "auto" else config.infer_dtype,
        "adapters": list(located.adapters),
        "prompts": [_prompt(renderer, text) for text in GGUF_PROMPTS],
        "texts": [{"text": text, "ids": renderer.text_ids(text)} for text in texts],
        "stop_ids": renderer.stop_ids,
        "files": list(files),
    }


def _prompt(renderer: Renderer, text: str) -> dict[str, Any]:
    messages = [Message("user", text)]
    return {"text": text, "ids": renderer.prompt(messages), "rendered": renderer.prompt_text(messages)}
