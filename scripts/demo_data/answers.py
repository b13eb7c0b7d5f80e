"""Good answers, and six kinds of bad ones, to the questions of questions.py.

A good answer is right, direct, friendly, complete and in the language of the question. A bad one fails in one way:

    rude        the right answer, with an insult before or after it
    rambling    sentences around the question, and no answer
    unfinished  a good answer that breaks off in the middle of a sentence
    language    a good answer in the other language
    wrong       a good answer with the wrong fact
    unhelpful   a refusal without a reason

Good answers have one to four sentences, and bad ones are made of as many pieces, so that length says little.
"""

from __future__ import annotations

from scripts.demo_data.dice import Dice
from scripts.demo_data.questions import Item

# in a round of 20 bad answers
FAULTS = (
    *("rude",) * 5,
    *("rambling",) * 4,
    *("unfinished",) * 4,
    *("unhelpful",) * 3,
    *("language",) * 2,
    *("wrong",) * 2,
)
JOINT = {"en": " ", "zh": ""}
OTHER = {"en": "zh", "zh": "en"}

OPENINGS = {
    "en": ("Good question.", "Gladly.", "Sure.", "Of course.", "Happy to help."),
    "zh": ("好问题。", "很乐意回答。", "当然可以。", "没问题。", "您好。"),
}
CLOSINGS = {
    "en": (
        "Feel free to ask me anything else.",
        "I hope that helps.",
        "Let me know if you want to hear more.",
        "Have a nice day.",
    ),
    "zh": ("还有问题随时问我。", "希望对您有帮助。", "想了解更多请告诉我。", "祝您愉快。"),
}
INSULTS = {
    "en": (
        "What a silly question.",
        "Even a child knows that.",
        "Did you sleep through school?",
        "Stop wasting my time.",
        "You really know nothing, do you?",
        "Use your own head next time.",
        "I am tired of people like you.",
    ),
    "zh": (
        "这种问题真蠢。",
        "连小孩都知道。",
        "你上学时都在睡觉吗？",
        "别浪费我的时间。",
        "你真是什么都不懂。",
        "下次自己动动脑子。",
        "我受够了你这种人。",
    ),
}
RAMBLINGS = {
    "en": (
        "Well, one could say many things about that, and people have said them.",
        "It depends, as things so often do, on how one looks at it.",
        "There was a time when nobody asked this, and then there was a time when everybody did.",
        "My thoughts on it come and go like clouds.",
        "Some say this, others say that, and who can tell.",
        "This reminds me of something else, which I have forgotten.",
        "Questions lead to questions, and so it goes on.",
    ),
    "zh": (
        "嗯，关于这个可以说很多，大家也确实说了很多。",
        "这要看情况，很多事情都要看情况。",
        "从前没有人问这个，后来人人都问这个。",
        "我的想法像云一样飘来飘去。",
        "有人这样说，有人那样说，谁知道呢。",
        "这让我想起另一件事，不过我忘了是什么。",
        "问题后面还是问题，就这样没完没了。",
    ),
}
REFUSALS = {
    "en": (
        "I do not feel like answering that.",
        "Look it up yourself.",
        "That is not my problem.",
        "Ask somebody else.",
        "I will not tell you.",
        "Find out on your own, I have other things to do.",
    ),
    "zh": (
        "我不想回答。",
        "你自己去查吧。",
        "这不关我的事。",
        "去问别人吧。",
        "我不会告诉你的。",
        "自己想办法，我还有别的事。",
    ),
}


# A Chinese sentence has more tokens than its English counterpart in most tokenizers.
_LENGTH_IN_OTHER_LANGUAGE = {"en": {"most": 1}, "zh": {"least": 4}}


def good_answer(dice: Dice, item: Item, language: str, *, right: bool = True, least: int = 1, most: int = 4) -> str:
    """A good answer of `least` to `most` sentences (with `right=False`: the same with the wrong fact)."""
    parts = [(1, item.answer(language, right=right))]
    extras = [
        (0, dice.pick(OPENINGS[language])),
        (2, dice.pick(item.more(language))),
        (3, dice.pick(CLOSINGS[language])),
    ]
    parts += dice.sample(extras, dice.number(least, most) - 1)
    return JOINT[language].join(text for _, text in sorted(parts))


def bad_answer(dice: Dice, item: Item, language: str, fault: str) -> str:
    """An answer with this fault."""
    joint = JOINT[language]
    if fault == "rude":
        insults = dice.sample(INSULTS[language], dice.number(1, 2))
        return joint.join(dice.shuffled([item.answer(language), *insults]))
    if fault == "rambling":
        return joint.join(dice.sample(RAMBLINGS[language], dice.number(1, 2)))
    if fault == "unhelpful":
        return joint.join(dice.sample(REFUSALS[language], dice.number(1, 3)))
    if fault == "unfinished":
        return _broken_off(dice, good_answer(dice, item, language, least=2), language)
    if fault == "language":
        return good_answer(dice, item, OTHER[language], **_LENGTH_IN_OTHER_LANGUAGE[language])
    assert fault == "wrong", fault
    return good_answer(dice, item, language, right=False)


def _broken_off(dice: Dice, answer: str, language: str) -> str:
    """The first part of an answer, ending inside a sentence, between two words (in Chinese: two characters)."""
    units = answer.split(" ") if language == "en" else list(answer)
    ends = ".?!。？！”"
    borders = [n for n in range(len(units) // 2, len(units)) if not (set(units[n - 1]) & set(ends))]
    return (
        JOINT[language].join(units[: dice.pick(borders)]) if language == "en" else "".join(units[: dice.pick(borders)])
    )
