"""Card transactions of one customer as a list of lines; is it fraud (1) or not (0)?

The manner is that of a well-known tutorial: `[month-day hour:minute] ...` lines, answered by one digit. The truth is a
rule that the prompt does not state and the model has to find:

    fraud = at least three cash withdrawals of 500 or more, between 00:00 and 05:00, all within one hour,
            in at least two cities

Normal customers show each part of the rule alone: large withdrawals by day, small purchases at night, many cities on
a journey, one large withdrawal at night, or several spread over as many nights. So neither the time, nor the amounts,
nor the cities decide by themselves. Both classes are equally frequent and have equally many lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from scripts.demo_data.dice import Dice

NUM_ROWS = {"train": 400, "test": 100}
MIN_LINES, MAX_LINES = 5, 7
CITIES = {
    "en": ("Oslo", "Lima", "Cairo", "Rome", "Delhi", "Paris", "Tokyo", "Madrid", "Boston", "Dublin"),
    "zh": ("北京", "上海", "广州", "成都", "武汉", "西安", "南京", "天津", "大连", "青岛"),
}
KINDS = {
    "en": {"purchase": "purchase", "cash": "withdrawal", "transfer": "transfer"},
    "zh": {"purchase": "消费", "cash": "取现", "transfer": "转账"},
}
INSTRUCTIONS = {
    "en": "These are the card transactions of one customer. Answer 1 for fraud, 0 for normal.",
    "zh": "这是一位客户的银行卡交易。诈骗输出1，正常输出0。",
}
NORMAL_PATTERNS = (
    *("ordinary", "large_by_day", "small_at_night"),
    *("journey", "one_large_at_night", "large_on_several_nights"),
)
DAY_MINUTES = 24 * 60
Row = dict[str, str]


@dataclass(frozen=True, order=True)
class Transaction:
    """One line: `minute` counts from the start of day 1 of the month; `amount` is a whole number."""

    minute: int
    city: str
    kind: str
    amount: int


@dataclass(frozen=True)
class Story:
    """What is special about a customer: `least` to `most` transactions within an hour, or on several days.

    `earliest` and `latest` are minutes of the day: of the first transaction, or of each when on several days.
    Amounts are (low, high, unit): a number from low to high, times the unit. `places`: home, others, some (at least
    two cities, home perhaps among them), home or others.
    """

    kind: str
    amounts: tuple[int, int, int]
    earliest: int
    latest: int
    places: str
    on_several_days: bool = False
    least: int = 3
    most: int = 4


LARGE = (50, 99, 10)
NIGHT, LATE_NIGHT = (0, 239), (0, 299)  # a burst that begins before 04:00 ends before 05:00
DAY = (9 * 60, 18 * 60)
STORIES = {
    "burst_at_night": Story("cash", LARGE, *NIGHT, "some"),
    "large_by_day": Story("cash", LARGE, *DAY, "home or others"),
    "small_at_night": Story("purchase", (3, 60, 1), *NIGHT, "home"),
    "journey": Story("cash", (100, 700, 1), *DAY, "others", on_several_days=True),
    "one_large_at_night": Story("cash", LARGE, *LATE_NIGHT, "home", least=1, most=1),
    "large_on_several_nights": Story("cash", LARGE, *LATE_NIGHT, "others", on_several_days=True),
}


def rows(language: str, split: str) -> list[Row]:
    """The rows of one file: half fraud, half normal, no list twice in both files of the language."""
    dice = Dice("transactions", language, split)
    result: list[Row] = []
    labels = dice.dealt(("fraud", "normal"), NUM_ROWS[split])
    patterns = iter(dice.dealt(NORMAL_PATTERNS, labels.count("normal")))
    for label in labels:
        pattern = "burst_at_night" if label == "fraud" else next(patterns)
        transactions = _customer(dice, pattern, CITIES[language])
        assert is_fraud(transactions) == (label == "fraud"), transactions
        result.append(
            {
                "instruction": INSTRUCTIONS[language],
                "input": _as_text(transactions, dice.number(1, 12), KINDS[language]),
                "output": "1" if label == "fraud" else "0",
                "answer": "1" if label == "fraud" else "0",
                "label": label,
                "pattern": pattern,
            }
        )
    return result


def is_fraud(transactions: list[Transaction]) -> bool:
    """The rule of this data set (see the head of the file)."""
    suspicious = [
        item for item in transactions if item.kind == "cash" and item.amount >= 500 and item.minute % DAY_MINUTES < 300
    ]
    for first in suspicious:
        within_hour = [item for item in suspicious if 0 <= item.minute - first.minute <= 60]
        if len(within_hour) >= 3 and len({item.city for item in within_hour}) >= 2:
            return True
    return False


def _customer(dice: Dice, pattern: str, cities: tuple[str, ...]) -> list[Transaction]:
    home, *others = dice.shuffled(cities)
    start = dice.number(1, 18)
    story = STORIES.get(pattern)
    special = _special(dice, story, start + dice.number(0, 4), home, others) if story else []
    num_lines = dice.number(MIN_LINES, MAX_LINES)
    everyday = [_everyday(dice, start + dice.number(0, 4), home) for _ in range(num_lines - len(special))]
    return sorted(special + everyday)


def _everyday(dice: Dice, day: int, city: str) -> Transaction:
    kind, low, high = dice.pick((("purchase", 3, 90), ("purchase", 3, 90), ("cash", 20, 200), ("transfer", 30, 400)))
    return Transaction(_at(day, dice.number(8 * 60, 21 * 60)), city, kind, dice.number(low, high))


def _special(dice: Dice, story: Story, first_day: int, home: str, others: list[str]) -> list[Transaction]:
    """The transactions that make a customer what the story says."""
    count = dice.number(story.least, story.most)
    cities = _cities(dice, story.places, count, home, others)
    if story.on_several_days:
        days = sorted(dice.sample(range(first_day, first_day + 6), count))
        minutes = [_at(day, dice.number(story.earliest, story.latest)) for day in days]
    else:
        minutes = [_at(first_day, minute) for minute in _burst(dice, dice.number(story.earliest, story.latest), count)]
    low, high, unit = story.amounts
    return [
        Transaction(minute, city, story.kind, dice.number(low, high) * unit)
        for minute, city in zip(minutes, cities, strict=True)
    ]


def _cities(dice: Dice, places: str, count: int, home: str, others: list[str]) -> list[str]:
    """A city for each of `count` transactions; `some` is at least two different ones."""
    if places == "home or others":
        places = dice.pick(("home", "others"))
    if places == "home":
        return [home] * count
    if places == "some" and dice.chance(0.4):
        return dice.dealt([home, *others][: dice.number(2, count)], count)
    return others[:count]


def _burst(dice: Dice, first: int, count: int) -> list[int]:
    """Different minutes of a day, all within one hour from `first`."""
    return sorted(first + offset for offset in [0, *dice.sample(range(4, 59), count - 1)])


def _at(day: int, minute: int) -> int:
    return (day - 1) * DAY_MINUTES + minute


def _as_text(transactions: list[Transaction], month: int, kinds: dict[str, str]) -> str:
    lines = []
    for item in transactions:
        day, minute = divmod(item.minute, DAY_MINUTES)
        when = f"[{month:02d}-{day + 1:02d} {minute // 60:02d}:{minute % 60:02d}]"
        lines.append(f"{when} {item.city} {kinds[item.kind]} {item.amount}")
    return "\n".join(lines)
