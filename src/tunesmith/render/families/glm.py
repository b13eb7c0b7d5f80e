"""GLM-4: an answer has no end token of its own; the model stops by opening the next turn.

So `<|user|>` after the answer is what is trained and what stops generation, and in a dialogue it is at the same
time the first token of the next user turn.
"""

from __future__ import annotations

from tunesmith.render.template import Template, ToolTurns

TEMPLATES = (
    Template(
        name="glm4",
        family="glm",
        prefix="[gMASK]<sop>",
        system="<|system|>\n{content}",
        user="<|user|>\n{content}",
        header="<|assistant|>",
        answer="\n{content}",
        end="<|user|>",
        end_opens_next_turn=True,
        stops=("<|observation|>", "<|endoftext|>"),
        tools=ToolTurns(
            "glm4", turn="{content}", result="<|observation|>\n{content}", calls="{content}", end="<|observation|>"
        ),
        notes="An answer with calls ends with <|observation|>, which opens the turn of the result; several calls are "
        "several turns of the assistant.",
        required_tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
)
