"""One sentence in, one JSON object out: payments (name, date, amount) and journeys (name, city, date, people).

`output` and `answer` hold the object as JSON text, keys in the order of the question; `schema` holds the JSON schema
that any right answer satisfies, as JSON text (as `tools` columns are). Dates are written out in the sentence and asked
for as YYYY-MM-DD, so that copying alone is not enough. Names of the held-out rows occur in no training row.
"""

from __future__ import annotations

import json
from typing import Any

from scripts.demo_data.dice import Dice

NUM_ROWS = {"train": 200, "test": 100}
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
RECORDS = {"payment": ("name", "date", "amount"), "journey": ("name", "city", "date", "people")}
NUMBERS = {"amount", "people"}
NAME_PARTS = {
    "en": (
        (
            *("Anna", "Boris", "Clara", "Diego", "Elena", "Felix", "Greta", "Hugo", "Iris", "Jonas"),
            *("Karin", "Liam", "Marta", "Nils", "Olga", "Pablo", "Rosa", "Simon", "Tara", "Victor"),
        ),
        (
            *("Adler", "Brook", "Castro", "Duval", "Ek", "Fischer", "Grant", "Holm"),
            *("Ito", "Jansen", "Keller", "Lopez", "Moreau", "Novak", "Olsen", "Park"),
        ),
    ),
    "zh": (tuple("王李张刘陈杨赵黄周吴徐孙马朱胡林"), tuple("伟芳娜敏静丽强磊军洋勇艳杰涛明霞")),
}
CITIES = {
    "en": ("Oslo", "Lima", "Cairo", "Rome", "Delhi", "Paris", "Tokyo", "Madrid", "Boston", "Dublin"),
    "zh": ("北京", "上海", "广州", "成都", "武汉", "西安", "南京", "天津", "大连", "青岛"),
}
SENTENCES = {
    "en": {
        "payment": (
            "On {date}, {name} paid {amount} dollars.",
            "{name} sent us {amount} dollars on {date}.",
            "We received {amount} dollars from {name} on {date}.",
            "The bill of {amount} dollars was settled by {name} on {date}.",
        ),
        "journey": (
            "{name} travels to {city} on {date} with a group of {people} people.",
            "On {date}, {name} takes {people} people to {city}.",
            "A trip to {city} for {people} people was booked by {name} for {date}.",
        ),
    },
    "zh": {
        "payment": (
            "{date}，{name}支付了{amount}元。",
            "{name}于{date}汇来{amount}元。",
            "我们在{date}收到{name}的{amount}元。",
            "这张{amount}元的账单由{name}在{date}付清。",
        ),
        "journey": (
            "{name}将于{date}带{people}人去{city}。",
            "{date}，{name}和一个{people}人的团前往{city}。",
            "{name}预订了{date}去{city}的{people}人行程。",
        ),
    },
}
INSTRUCTIONS = {
    "en": "Extract {keys} as JSON. Write the date as YYYY-MM-DD.",
    "zh": "提取{keys}，输出JSON，日期写成YYYY-MM-DD。",
}
Row = dict[str, str]


def rows(language: str, split: str) -> list[Row]:
    """The rows of one file; every sentence differs."""
    dice = Dice("extraction", language, split)
    pool = names(language, split)
    found: dict[str, Row] = {}
    while len(found) < NUM_ROWS[split]:
        record = tuple(RECORDS)[len(found) % len(RECORDS)]
        row = _row(dice, language, record, dice.pick(pool))
        found.setdefault(row["input"], row)
    return dice.shuffled(list(found.values()))


def names(language: str, split: str) -> list[str]:
    """The names of a split; a fifth of all is kept for testing."""
    joint = " " if language == "en" else ""
    front, back = NAME_PARTS[language]
    everyone = [first + joint + second for first in front for second in back]
    mixed = Dice("extraction", "names", language).shuffled(everyone)
    border = len(mixed) // 5
    return mixed[:border] if split == "test" else mixed[border:]


def schema(record: str) -> dict[str, Any]:
    """The JSON schema of a record."""
    keys = RECORDS[record]
    properties: dict[str, Any] = {key: {"type": "integer" if key in NUMBERS else "string"} for key in keys}
    properties["date"]["pattern"] = r"^\d{4}-\d{2}-\d{2}$"
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


def _row(dice: Dice, language: str, record: str, name: str) -> Row:
    year, month, day = dice.number(2015, 2029), dice.number(1, 12), dice.number(1, 28)
    values = {
        "name": name,
        "city": dice.pick(CITIES[language]),
        "date": f"{year}-{month:02d}-{day:02d}",
        "amount": dice.number(2, 99) * dice.pick((1, 5, 10)),
        "people": dice.number(2, 12),
    }
    spoken = f"{day} {MONTHS[month - 1]} {year}" if language == "en" else f"{year}年{month}月{day}日"
    keys = RECORDS[record]
    answer = json.dumps({key: values[key] for key in keys}, ensure_ascii=False)
    listed = ", ".join(keys) if language == "en" else "、".join(keys)
    return {
        "instruction": INSTRUCTIONS[language].format(keys=listed),
        "input": dice.pick(SENTENCES[language][record]).format(**{**values, "date": spoken}),
        "output": answer,
        "answer": answer,
        "schema": json.dumps(schema(record), separators=(",", ":")),
        "record": record,
    }
