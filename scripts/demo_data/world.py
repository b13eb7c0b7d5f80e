"""The invented world that the pretraining documents tell of: the Merrow Isles, their people and their year.

Nothing here exists, so no model has read about it; what it knows afterwards it has learnt from these documents. The
facts of an island or a person are fixed and every document agrees with them, so that a held-out document holds facts
that training documents hold too, in other words and other company.
"""

from __future__ import annotations

from dataclasses import dataclass

Names = dict[str, str]
"""The same thing in each language: {"en": ..., "zh": ...}."""


@dataclass(frozen=True)
class Island:
    """One island with its town, what it makes, its weather, its feast and where its ferry goes."""

    name: Names
    town: Names
    good: Names
    weather: Names
    feast: Names
    month: Names
    next_island: Names


@dataclass(frozen=True)
class Person:
    """One inhabitant: trade, home, animal and what they are known for."""

    name: Names
    trade: Names
    home: Island
    animal: Names
    habit: Names


_ISLANDS = """
Tavira|Lanternfoot|sea glass|mild and misty|Lantern Night|Firstmoon|塔维岛|灯脚镇|海玻璃|温和多雾|提灯之夜|初月
Ollume|Saltgate|blue salt|dry and windy|the Salt Weighing|Reedmoon|奥鲁岛|盐门镇|蓝盐|干燥多风|称盐节|苇月
Brennick|Coppermouth|copper bells|wet and cool|the Ringing|Rainmoon|布伦岛|铜口镇|铜铃|湿润凉爽|鸣铃节|雨月
Sarrow|Kitehaven|silk kites|bright and gusty|Kite Day|Windmoon|萨罗岛|鸢港镇|丝风筝|晴朗多阵风|风筝日|风月
Dunmere|Peatwharf|black tea|grey and quiet|the Long Pouring|Leafmoon|邓米岛|泥炭埠|黑茶|阴沉安静|长斟节|叶月
Ilvane|Figharbour|dried figs|warm and still|the Fig Supper|Sunmoon|伊万岛|无花果港|无花果干|温暖无风|无花果宴|日月
Quorra|Woolpier|red wool|cold and clear|the Shearing Dance|Snowmoon|科拉岛|羊毛码头|红羊毛|寒冷晴朗|剪毛舞会|雪月
Hestrin|Wickerbay|reed boats|foggy in the morning|the Quiet Race|Mistmoon|赫斯岛|柳编湾|芦苇船|早晨有雾|静舟赛|霭月
"""
_PEOPLE = """
Maro Tellin|glass grinder|Tavira|a grey heron|counts the lamps each evening|马罗·特林|磨玻璃匠|一只灰鹭|每晚数一遍灯
Isha Venn|ferry pilot|Tavira|a one-eyed cat|sings to the fog|伊莎·文|渡船领航员|一只独眼猫|对着雾唱歌
Orrin Salk|salt weigher|Ollume|a white goat|never buttons his coat|奥林·萨克|称盐人|一只白山羊|从不扣外套
Lenna Droy|well keeper|Ollume|a lame sparrow|writes letters to the sea|莲娜·德罗|守井人|一只瘸腿麻雀|给大海写信
Bram Corvell|bell founder|Brennick|a deaf hound|hums while he works|布拉姆·科维|铸铃匠|一条聋猎犬|干活时哼小曲
Tessa Ruel|rain reader|Brennick|a green frog|walks without shoes|苔莎·鲁尔|观雨人|一只绿蛙|走路不穿鞋
Fenno Ash|kite maker|Sarrow|a tame crow|sleeps on the roof|芬诺·阿什|风筝匠|一只驯乌鸦|睡在屋顶上
Pell Anwar|cliff postman|Sarrow|a brown donkey|delivers before sunrise|佩尔·安瓦|悬崖邮差|一头棕驴|日出前送信
Gilda Moss|tea master|Dunmere|an old tortoise|pours with her left hand|吉达·莫斯|茶师|一只老乌龟|用左手斟茶
Ivo Harl|peat cutter|Dunmere|a black mare|tells the same joke twice|伊沃·哈尔|挖泥炭人|一匹黑母马|同一个笑话讲两遍
Sunniva Lark|fig grower|Ilvane|a noisy parrot|gives away first fruit|桑妮·拉克|种无花果人|一只吵闹的鹦鹉|头果送人
Coll Bexley|lock mender|Ilvane|a yellow snake|carries forty keys|科尔·贝利|修锁匠|一条黄蛇|随身带四十把钥匙
Ragna Thule|shearer|Quorra|a three-legged dog|wears a hat of red wool|拉娜·图勒|剪羊毛工|一条三腿狗|戴一顶红羊毛帽
Odo Winter|snow watcher|Quorra|a snow owl|keeps a diary of ice|奥多·温特|守雪人|一只雪鸮|写一本冰的日记
Nim Faraday|boat weaver|Hestrin|a white otter|whistles at low tide|尼姆·法拉|编船匠|一只白水獭|退潮时吹口哨
Yara Quill|fog bell keeper|Hestrin|a blind gull|remembers every ship|雅拉·奎尔|守雾钟人|一只盲海鸥|记得每一艘船
"""


def _cells(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]


def _read_islands() -> tuple[Island, ...]:
    table = _cells(_ISLANDS)
    result = []
    for index, row in enumerate(table):
        following = table[(index + 1) % len(table)]
        pairs = [{"en": en, "zh": zh} for en, zh in zip(row[:6], row[6:], strict=True)]
        result.append(Island(*pairs, next_island={"en": following[0], "zh": following[6]}))
    return tuple(result)


def _read_people() -> tuple[Person, ...]:
    homes = {island.name["en"]: island for island in ISLANDS}
    result = []
    for name, trade, home, animal, habit, *chinese in _cells(_PEOPLE):
        names, trades, animals, habits = (
            {"en": en, "zh": zh} for en, zh in zip((name, trade, animal, habit), chinese, strict=True)
        )
        result.append(Person(names, trades, homes[home], animals, habits))
    return tuple(result)


ISLANDS = _read_islands()
PEOPLE = _read_people()
WINDS = {
    "en": ("the grey wind", "the kind wind", "the thief wind", "the bride wind"),
    "zh": ("灰风", "善风", "贼风", "新娘风"),
}
COINS = {"en": "pearl coins", "zh": "珠币"}
