"""Preference pairs (for rm and dpo) and single answers with a thumb up or down (for kto).

Every prompt occurs once in all these files of a language: the questions are dealt out over them. What is asked about
in the held-out files is never asked about in the training files (questions.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.demo_data.answers import FAULTS, bad_answer, good_answer
from scripts.demo_data.dice import Dice
from scripts.demo_data.questions import Item, items

NUM_ROWS = {"train": 300, "test": 100}
LEADS = {
    "en": ("", "", "Quick question: ", "Please help me. ", "For a quiz: ", "My daughter asks: ", "Hello! "),
    "zh": ("", "", "请教一下：", "帮帮我，", "知识竞赛题：", "我女儿问：", "你好！"),
}
Row = dict[str, Any]


def preference_rows(language: str, split: str) -> list[Row]:
    """Rows with a chosen and a rejected answer, in the sharegpt layout with `ranking`."""
    dice = Dice("preference", language, split)
    result = []
    questions = _questions(language, split)[: NUM_ROWS[split]]
    for (item, question), fault in zip(questions, dice.dealt(FAULTS, len(questions)), strict=True):
        chosen = good_answer(dice, item, language)
        rejected = bad_answer(dice, item, language, fault)
        assert chosen != rejected
        result.append(
            {
                "conversations": [{"from": "human", "value": question}],
                "chosen": {"from": "gpt", "value": chosen},
                "rejected": {"from": "gpt", "value": rejected},
                "fault": fault,
            }
        )
    return result


def kto_rows(language: str, split: str) -> list[Row]:
    """Rows with one answer and whether it is desirable, half of them so; `fault` is empty for good answers."""
    dice = Dice("kto", language, split)
    result = []
    questions = _questions(language, split)[NUM_ROWS[split] : 2 * NUM_ROWS[split]]
    labels = dice.dealt((True, False), len(questions))
    faults = iter(dice.dealt(FAULTS, labels.count(False)))
    for (item, question), label in zip(questions, labels, strict=True):
        fault = "" if label else next(faults)
        answer = good_answer(dice, item, language) if label else bad_answer(dice, item, language, fault)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        result.append({"messages": messages, "label": label, "fault": fault})
    return result


def _questions(language: str, split: str) -> list[tuple[Item, str]]:
    """Twice `NUM_ROWS` different questions, each item about equally often."""
    dice = Dice("prompts", language, split)
    found: dict[str, Item] = {}
    for item in _endless(dice, items(split)):
        question = item.question(language, dice)
        lead = dice.pick(LEADS[language])
        found.setdefault(lead + (question[:1].upper() + question[1:]), item)
        if len(found) == 2 * NUM_ROWS[split]:
            break
    return dice.shuffled([(item, question) for question, item in found.items()])


def _endless(dice: Dice, pool: list[Item]) -> Iterator[Item]:
    while True:
        yield from dice.shuffled(pool)
