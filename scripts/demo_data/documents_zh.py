"""The Chinese sentences of documents.py: for each slot the ways to say it. Names in braces are facts of world.py."""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, ...]] = {
    "island": (
        "{island}是默罗八岛之一，岛上只有一座城镇，名叫{town}。",
        "在默罗群岛航行的人都会来到{island}和它的港口{town}。",
        "在默罗八岛之一的{island}上，条条道路通向{town}。",
    ),
    "makes": ("{island}以{good}闻名。", "{island}的人靠{good}为生。", "群岛各处买的{good}都来自{town}。"),
    "weather": ("{island}的天气{weather}。", "{island}一年里大半时间{weather}。", "老水手都说{island}{weather}。"),
    "feast": (
        "每到{month}，{town}的人们庆祝{feast}。",
        "{island}最大的节日是{month}的{feast}。",
        "{month}一到，{town}就开始准备{feast}。",
    ),
    "ferry": ("{town}的渡船开往{next}。", "渡船从{island}继续驶向{next}。", "{island}的下一站是{next}。"),
    "resident": (
        "{trade}{name}和{animal}住在那里。",
        "可以去找{trade}{name}，此人的习惯是{habit}。",
        "那里最有名的居民是{trade}{name}，身边总有{animal}。",
    ),
    "person": (
        "{name}是{island}{town}的{trade}。",
        "{town}人人都认识{trade}{name}。",
        "{island}的{town}里住着{name}，一位{trade}。",
    ),
    "animal": (
        "{name}和{animal}同住一屋。",
        "{name}走到哪里，{animal}就跟到哪里。",
        "{name}在{town}没有家人，只有{animal}。",
    ),
    "habit": (
        "{town}的人说，{name}有个习惯：{habit}。",
        "孩子们爱笑{name}的习惯：{habit}。",
        "邻居们都知道{trade}{name}的习惯：{habit}。",
    ),
    "years": (
        "{name}做{trade}已经{years}年了。",
        "{years}年来，{name}一直在{town}干活。",
        "过了{years}年，{name}仍然喜欢做{trade}。",
    ),
    "feast_of_person": (
        "{month}的{feast}那天，{name}关上作坊去跳舞。",
        "只有{month}的{feast}，{name}才休息一天。",
        "{town}在{month}庆祝{feast}时，由{name}点亮第一盏灯。",
    ),
    "letter_open": (
        "亲爱的{other_name}，给你写信的是{town}的{name}。",
        "致{other_trade}{other_name}，{island}的{trade}{name}敬上。",
        "亲爱的{other_name}，来自{island}{town}的问候。",
    ),
    "letter_wind": (
        "{wind}刮了{number}天，没有一班渡船开往{next}。",
        "自从{number}天前{wind}到来，{town}一直在等渡船。",
        "{wind}刮了{number}天，{island}又变得{weather}。",
    ),
    "letter_wish": (
        "请寄给我{number}箱{other_good}，我会寄给你{good}。",
        "我们有足够的{good}，可是一点{other_good}也没有。",
        "我愿出{number}枚{coins}换一点你的{other_good}。",
    ),
    "letter_animal": (
        "你和{other_animal}都好吗？我有{animal}作伴。",
        "我常想起你和{other_animal}，{animal}也一样。",
        "昨夜我梦见{animal}遇到了{other_animal}。",
    ),
    "letter_feast": (
        "{month}来我们这里过{feast}吧。",
        "你还没见过{feast}，它在{month}举行。",
        "{month}我们庆祝{feast}，床已经给你铺好。",
    ),
    "letter_close": (
        "你的朋友，{town}的{trade}{name}。",
        "愿善风找到你。{name}，于{town}。",
        "以盐与光祝福你，{island}的{name}。",
    ),
    "market": (
        "本周{island}{town}集市的价格如下。",
        "{town}的集市上成交价格如下。",
        "{island}{town}集市大厅消息：",
    ),
    "price": (
        "{island}的{good}每箱{number}枚{coins}。",
        "{town}的{good}要付{number}枚{coins}一箱。",
        "{number}枚{coins}是{island}{good}的价钱。",
    ),
    "market_end": (
        "{feast}过后，{town}的集市重新开张。",
        "想买{good}的人要早来，{town}中午就卖完了。",
        "{month}里，{feast}之前，价格会上涨。",
    ),
    "ferry_notice": ("告从{island}出行的旅客。", "{town}港务长通知：", "在{town}码头宣读如下。"),
    "ferry_wind": (
        "{wind}刮起时，船在{town}过夜。",
        "{wind}天没有船离开{town}的港口。",
        "只要不刮{wind}，航程就平安。",
    ),
    "ferry_price": (
        "去{next}的船票是{number}枚{coins}，{good}免费。",
        "登船去{next}之前，请付领航员{number}枚{coins}。",
        "去{next}的甲板票是{number}枚{coins}。",
    ),
    "feast_guest": (
        "{other_name}从{other_island}来{name}家做客。",
        "客人里有{other_island}的{other_trade}{other_name}。",
        "{trade}{name}邀请了{other_island}的{other_name}。",
    ),
    "feast_gift": (
        "客人带来{other_good}，带着{good}回家。",
        "{other_name}送给{name}一篮{other_good}。",
        "按照习俗，大家用{good}交换{other_good}。",
    ),
}
