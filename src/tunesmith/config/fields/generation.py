"""How text is generated: sampling, lengths, penalties.

Names and meanings are those of `transformers.GenerationConfig`; the defaults are the public tool's, which are not the
same. `max_new_tokens` above 0 replaces `max_length`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option


@dataclass(frozen=True, init=False, repr=False, eq=False)
class GenerationOptions:
    """Sampling settings of chat, API and prediction."""

    GROUP: ClassVar[Group] = Group(
        "generation", "Generation", "文本生成", ("chat", "webchat", "api", "eval", "train", "predict")
    )

    do_sample: bool = option(
        True, en="Draw tokens at random; false always takes the likeliest.", zh="随机采样；false 则总取概率最大的词元。"
    )
    temperature: float = option(
        0.95, en="Above 1 more varied, towards 0 more certain.", zh="温度：越高越多样，越接近 0 越确定。", ge=0
    )
    top_p: float = option(
        0.7,
        en="Draw from the likeliest tokens that make up this probability.",
        zh="只从累计概率达到该值的最可能词元中采样。",
        gt=0,
        le=1,
    )
    top_k: int = option(
        50, en="Draw from this many likeliest tokens; 0: all.", zh="只从最可能的 k 个词元中采样；0 表示不限。", ge=0
    )
    num_beams: int = option(
        1, en="Beams of beam search.", zh="束搜索的束宽。", gt=0, later="use sampling or do_sample: false"
    )
    max_length: int = option(
        1024,
        en="Most tokens of prompt and answer together; used when max_new_tokens is 0.",
        zh="提示与回答的总词元上限；仅在 max_new_tokens 为 0 时生效。",
        gt=0,
    )
    max_new_tokens: int = option(1024, en="Most tokens of an answer.", zh="回答的最大词元数。", ge=0)
    repetition_penalty: float = option(
        1.0, en="Above 1 makes repeated tokens less likely.", zh="重复惩罚：大于 1 会降低重复词元的概率。", gt=0
    )
    length_penalty: float = option(
        1.0,
        en="Preference of beam search for longer answers.",
        zh="束搜索对较长回答的偏好。",
        later="it belongs to beam search; leave it out",
    )
    skip_special_tokens: bool = option(True, en="Leave special tokens out of the answer.", zh="回答中不显示特殊标记。")
    generation_max_length: int | None = option(
        None,
        en="Most tokens when evaluation generates text.",
        zh="生成式评估时的最大词元数。",
        gt=0,
        later="evaluation measures loss and token accuracy",
    )
    generation_num_beams: int | None = option(
        None,
        en="Beams when evaluation generates text.",
        zh="生成式评估时的束宽。",
        gt=0,
        off=(1,),
        later="evaluation measures loss and token accuracy",
    )
