"""Short documents about the Merrow Isles (world.py), for continued pretraining: rows with a `text` column.

Six kinds: the description of an island, a portrait, a letter, a price list, a ferry notice and a day at a feast. A
document draws its sentences from the paraphrases below; numbers, company and order vary, the facts do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.demo_data import documents_en, documents_zh
from scripts.demo_data.dice import Dice
from scripts.demo_data.world import COINS, ISLANDS, PEOPLE, WINDS, Island, Person

NUM_ROWS = {"train": 240, "test": 40}
WORDING = {"en": documents_en.SENTENCES, "zh": documents_zh.SENTENCES}
JOINT = {"en": " ", "zh": ""}
Row = dict[str, str]


def rows(language: str, split: str) -> list[Row]:
    """The documents of one file. Training and held-out files never hold the same document."""
    dice = Dice("documents", language)
    found: dict[str, str] = {}
    kinds = tuple(KINDS)
    total = NUM_ROWS["train"] + NUM_ROWS["test"]
    while len(found) < total:
        kind = kinds[len(found) % len(kinds)]
        found.setdefault(KINDS[kind](dice, language), kind)
    documents = dice.shuffled([{"text": text, "kind": kind} for text, kind in found.items()])
    return documents[: NUM_ROWS["train"]] if split == "train" else documents[NUM_ROWS["train"] :]


def _write(dice: Dice, language: str, slots: list[str], facts: dict[str, Any]) -> str:
    """One sentence for each slot, joined to a paragraph."""
    table = WORDING[language]
    return JOINT[language].join(dice.pick(table[slot]).format(**facts) for slot in slots)


def _island_facts(island: Island, language: str) -> dict[str, Any]:
    return {
        "island": island.name[language],
        "town": island.town[language],
        "good": island.good[language],
        "weather": island.weather[language],
        "feast": island.feast[language],
        "month": island.month[language],
        "next": island.next_island[language],
        "coins": COINS[language],
    }


def _person_facts(person: Person, language: str, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}name": person.name[language],
        f"{prefix}trade": person.trade[language],
        f"{prefix}animal": person.animal[language],
        f"{prefix}habit": person.habit[language],
    }


def _island(dice: Dice, language: str) -> str:
    island = dice.pick(ISLANDS)
    person = dice.pick([someone for someone in PEOPLE if someone.home is island])
    facts = {**_island_facts(island, language), **_person_facts(person, language)}
    middle = dice.sample(["makes", "weather", "feast", "ferry", "resident"], 4)
    return _write(dice, language, ["island", *middle], facts)


def _portrait(dice: Dice, language: str) -> str:
    person = dice.pick(PEOPLE)
    facts = {**_island_facts(person.home, language), **_person_facts(person, language)}
    facts["years"] = dice.number(3, 40)
    middle = dice.sample(["animal", "habit", "years", "makes"], 3)
    return _write(dice, language, ["person", *middle, "feast_of_person"], facts)


def _letter(dice: Dice, language: str) -> str:
    writer = dice.pick(PEOPLE)
    reader = dice.pick([someone for someone in PEOPLE if someone.home is not writer.home])
    facts = {
        **_island_facts(writer.home, language),
        **_person_facts(writer, language),
        **_person_facts(reader, language, "other_"),
        "other_good": reader.home.good[language],
        "wind": dice.pick(WINDS[language]),
        "number": dice.number(2, 12),
    }
    middle = dice.sample(["letter_wind", "letter_wish", "letter_animal", "letter_feast"], 3)
    return _write(dice, language, ["letter_open", *middle, "letter_close"], facts)


def _prices(dice: Dice, language: str) -> str:
    here, *others = dice.sample(ISLANDS, 4)
    facts = _island_facts(here, language)
    lines = [_write(dice, language, ["market"], facts)]
    for island in (here, *others):
        item = {**_island_facts(island, language), "number": dice.number(2, 30)}
        lines.append(_write(dice, language, ["price"], item))
    return JOINT[language].join([*lines, _write(dice, language, ["market_end"], facts)])


def _ferry(dice: Dice, language: str) -> str:
    island = dice.pick(ISLANDS)
    facts = {**_island_facts(island, language), "number": dice.number(4, 20), "wind": dice.pick(WINDS[language])}
    return _write(dice, language, ["ferry_notice", "ferry", "ferry_wind", "weather", "ferry_price"], facts)


def _feast(dice: Dice, language: str) -> str:
    island = dice.pick(ISLANDS)
    guest = dice.pick([someone for someone in PEOPLE if someone.home is not island])
    host = dice.pick([someone for someone in PEOPLE if someone.home is island])
    facts = {
        **_island_facts(island, language),
        **_person_facts(host, language),
        **_person_facts(guest, language, "other_"),
        "other_island": guest.home.name[language],
        "other_good": guest.home.good[language],
        "wind": dice.pick(WINDS[language]),
    }
    return _write(dice, language, ["feast", "feast_guest", *dice.sample(["weather", "feast_gift", "animal"], 2)], facts)


KINDS: dict[str, Callable[[Dice, str], str]] = {
    "island": _island,
    "portrait": _portrait,
    "letter": _letter,
    "prices": _prices,
    "ferry": _ferry,
    "feast": _feast,
}
