"""Small sums with one right answer, as bare terms and as one-sentence stories.

Sums: a + b and a - b with numbers to 20, a x b of the small multiplication table; results are whole and not negative.
The held-out rows ask for problems that no training row of either language asks for, also not with the two numbers of
a sum or product exchanged.
"""

from __future__ import annotations

from scripts.demo_data.dice import Dice

NUM_ROWS = {"train": 300, "test": 100}
Problem = tuple[str, int, int]
Row = dict[str, str]

TERMS = {
    "en": {
        "+": ("What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b} = ?"),
        "-": ("What is {a} - {b}?", "Subtract {b} from {a}.", "{a} - {b} = ?"),
        "x": ("What is {a} x {b}?", "Multiply {a} by {b}.", "{a} x {b} = ?"),
    },
    "zh": {
        "+": ("{a} + {b} 等于多少？", "计算 {a} 加 {b}。", "{a} + {b} = ?"),
        "-": ("{a} - {b} 等于多少？", "计算 {a} 减 {b}。", "{a} - {b} = ?"),
        "x": ("{a} x {b} 等于多少？", "计算 {a} 乘 {b}。", "{a} x {b} = ?"),
    },
}
STORIES = {
    "en": {
        "+": ("{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",),
        "-": ("{name} has {a} {things} and gives away {b}. How many {things} are left?",),
        "x": ("{name} fills {a} bags with {b} {things} each. How many {things} are there?",),
    },
    "zh": {
        "+": ("{name}有{a}{things}，又得到{b}{things}。现在一共有多少？",),
        "-": ("{name}有{a}{things}，送出{b}{things}。还剩多少？",),
        "x": ("{name}有{a}个袋子，每袋装{b}{things}。一共有多少？",),
    },
}
ENDINGS = {"en": "Reply with the number only.", "zh": "只回答数字。"}
NAMES = {
    "en": ("Ann", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry"),
    "zh": ("小明", "小红", "小华", "李雷", "王芳", "小军", "张伟", "小丽"),
}
THINGS = {
    "en": ("apples", "pens", "books", "coins", "stamps", "eggs", "cards", "shells"),
    "zh": ("个苹果", "支笔", "本书", "枚硬币", "张邮票", "个鸡蛋", "张卡片", "颗糖"),
}
LARGEST = 20
STORY_SHARE = 0.25


def problems(split: str) -> list[Problem]:
    """Every problem that may be asked in this split: a fifth is kept for testing."""
    sums = [("+", a, b) for a in range(2, LARGEST + 1) for b in range(2, a + 1)]
    differences = [("-", a, b) for a in range(4, LARGEST + 1) for b in range(2, a - 1)]
    products = [("x", a, b) for a in range(2, 11) for b in range(2, a + 1)]
    chosen: list[Problem] = []
    for group in (sums, differences, products):
        mixed = Dice("arithmetic", "problems", group[0][0]).shuffled(group)
        border = len(mixed) // 5
        chosen += mixed[:border] if split == "test" else mixed[border:]
    return chosen


def result_of(problem: Problem) -> int:
    """The right answer."""
    sign, a, b = problem
    return {"+": a + b, "-": a - b, "x": a * b}[sign]


def rows(language: str, split: str) -> list[Row]:
    """The rows of one file; every question differs."""
    dice = Dice("arithmetic", language, split)
    by_sign = {sign: dice.shuffled([item for item in problems(split) if item[0] == sign]) for sign in "+-x"}
    found: dict[str, Row] = {}
    for index in range(50 * NUM_ROWS[split]):
        sign = "++--x"[index % 5]
        pool = by_sign[sign]
        row = _row(dice, language, pool[index % len(pool)])
        found.setdefault(row["instruction"], row)
        if len(found) == NUM_ROWS[split]:
            return dice.shuffled(list(found.values()))
    raise AssertionError("too few different questions")


def _row(dice: Dice, language: str, problem: Problem) -> Row:
    sign, a, b = problem
    if sign != "-" and dice.chance(0.5):
        a, b = b, a
    patterns = STORIES if dice.chance(STORY_SHARE) else TERMS
    question = dice.pick(patterns[language][sign]).format(
        a=a, b=b, name=dice.pick(NAMES[language]), things=dice.pick(THINGS[language])
    )
    answer = str(result_of(problem))
    joint = " " if question.endswith("?") or language == "en" else ""
    return {
        "instruction": question + joint + ENDINGS[language],
        "output": answer,
        "answer": answer,
        "problem": f"{a} {sign} {b}",
    }
