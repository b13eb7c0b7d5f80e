"""The kinds of rows, by name, and the kind that each stage learns from.

A new kind is one file with a `KIND` object and a line here; a new stage is named in the `stages` of its kind.
"""

from __future__ import annotations

from typing import Literal, get_args

from tunesmith.data.kinds import conversation, feedback, preference, prompt, text
from tunesmith.data.kinds.base import Kind

KindName = Literal["conversation", "preference", "feedback", "text", "prompt"]

KINDS: dict[KindName, Kind] = {
    "conversation": conversation.KIND,
    "preference": preference.KIND,
    "feedback": feedback.KIND,
    "text": text.KIND,
    "prompt": prompt.KIND,
}
assert set(KINDS) == set(get_args(KindName))

STAGE_KIND: dict[str, KindName] = {stage: name for name, kind in KINDS.items() for stage in kind.stages}
"""Stage -> the kind of its rows: pt, sft, gkd, rm, dpo, kto, ppo, grpo."""
