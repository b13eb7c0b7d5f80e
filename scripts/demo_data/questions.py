"""Everyday questions with a right and a wrong answer, in English and Chinese: a table of topics and their items.

A topic has ways to ask, one sentence that answers, and sentences that may follow a good answer and are true for every
item. An item is a line `asked|right|wrong` in English, then the same in Chinese. `{x}` stands for what is asked about,
`{y}` for the answer. A quarter of each topic's items is kept for testing, so that held-out questions are about things
that no training row asks about.
"""

from __future__ import annotations

from dataclasses import dataclass

from scripts.demo_data.dice import Dice


@dataclass(frozen=True)
class Wording:
    """How one language asks and answers: patterns with {x} and {y}."""

    ask: tuple[str, ...]
    answer: str
    more: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """A kind of question; `items` is the table, one item per line."""

    name: str
    wording: dict[str, Wording]
    items: str


@dataclass(frozen=True)
class Item:
    """One thing to ask about: per language (asked, right, wrong)."""

    topic: Topic
    terms: dict[str, tuple[str, str, str]]

    def question(self, language: str, dice: Dice) -> str:
        """One of the ways to ask."""
        return dice.pick(self.topic.wording[language].ask).format(x=self.terms[language][0])

    def answer(self, language: str, *, right: bool = True) -> str:
        """The sentence that answers, rightly or wrongly."""
        asked, true, false = self.terms[language]
        return capital(self.topic.wording[language].answer.format(x=asked, y=true if right else false))

    def more(self, language: str) -> list[str]:
        """Sentences that may follow, true whatever the item is."""
        asked = self.terms[language][0]
        return [capital(sentence.format(x=asked)) for sentence in self.topic.wording[language].more]


def capital(sentence: str) -> str:
    """The sentence with a capital letter first."""
    return sentence[:1].upper() + sentence[1:]


def items(split: str) -> list[Item]:
    """All items of a split, in the order of the table."""
    result = []
    for topic in TOPICS:
        lines = [line for line in topic.items.strip().splitlines() if line.strip()]
        for_test = set(Dice("questions", topic.name).sample(lines, len(lines) // 4))
        for line in lines:
            if (line in for_test) == (split == "test"):
                cells = tuple(cell.strip() for cell in line.split("|"))
                assert len(cells) == 6, line
                result.append(Item(topic, {"en": cells[:3], "zh": cells[3:]}))
    return result


TOPICS = (
    Topic(
        "capital",
        {
            "en": Wording(
                ("What is the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}."),
                "The capital of {x} is {y}.",
                ("You will find it on any map of {x}.", "Many travellers begin their visit of {x} there."),
            ),
            "zh": Wording(
                ("{x}的首都是哪里？", "请问{x}的首都是什么城市？", "告诉我{x}的首都。"),
                "{x}的首都是{y}。",
                ("在{x}的地图上很容易找到它。", "很多人去{x}旅行时会先到那里。"),
            ),
        },
        """
        France|Paris|Lyon|法国|巴黎|里昂
        Italy|Rome|Milan|意大利|罗马|米兰
        Spain|Madrid|Seville|西班牙|马德里|塞维利亚
        Norway|Oslo|Bergen|挪威|奥斯陆|卑尔根
        Egypt|Cairo|Luxor|埃及|开罗|卢克索
        Japan|Tokyo|Osaka|日本|东京|大阪
        Canada|Ottawa|Toronto|加拿大|渥太华|多伦多
        Peru|Lima|Cusco|秘鲁|利马|库斯科
        Germany|Berlin|Hamburg|德国|柏林|汉堡
        Austria|Vienna|Graz|奥地利|维也纳|格拉茨
        Poland|Warsaw|Krakow|波兰|华沙|克拉科夫
        Greece|Athens|Patras|希腊|雅典|帕特雷
        Portugal|Lisbon|Porto|葡萄牙|里斯本|波尔图
        Kenya|Nairobi|Mombasa|肯尼亚|内罗毕|蒙巴萨
        Vietnam|Hanoi|Hue|越南|河内|顺化
        Finland|Helsinki|Turku|芬兰|赫尔辛基|图尔库
        """,
    ),
    Topic(
        "opposite",
        {
            "en": Wording(
                ("What is the opposite of {x}?", "Give me the opposite of the word {x}.", "Which word means not {x}?"),
                "The opposite of {x} is {y}.",
                ("Both words are used every day.", "Learning the two together makes them easy to remember."),
            ),
            "zh": Wording(
                ("“{x}”的反义词是什么？", "请说出“{x}”的反义词。", "和“{x}”意思相反的词是什么？"),
                "“{x}”的反义词是“{y}”。",
                ("这两个词在生活中都很常用。", "放在一起学，更容易记住。"),
            ),
        },
        """
        hot|cold|warm|热|冷|暖
        tall|short|thin|高|矮|瘦
        early|late|soon|早|晚|快
        empty|full|open|空|满|开
        heavy|light|thick|重|轻|厚
        rich|poor|proud|富|穷|贵
        wet|dry|soft|湿|干|软
        loud|quiet|clear|吵|静|清
        strong|weak|hard|强|弱|硬
        wide|narrow|long|宽|窄|长
        old|new|good|旧|新|好
        deep|shallow|dark|深|浅|暗
        slow|fast|steady|慢|快|稳
        far|near|high|远|近|高
        clean|dirty|smooth|干净|脏|光滑
        safe|dangerous|careful|安全|危险|小心
        """,
    ),
    Topic(
        "young",
        {
            "en": Wording(
                ("What is a young {x} called?", "What do you call a baby {x}?", "How is the young of a {x} named?"),
                "A young {x} is called a {y}.",
                ("It stays close to its mother at first.", "It grows quickly in its first months."),
            ),
            "zh": Wording(
                ("{x}的孩子叫什么？", "人们怎样称呼刚出生的{x}？", "年幼的{x}怎么称呼？"),
                "年幼的{x}叫作{y}。",
                ("起初它总是跟在妈妈身边。", "头几个月它长得很快。"),
            ),
        },
        """
        dog|puppy|kitten|狗|小狗|小猫
        cat|kitten|puppy|猫|小猫|小狗
        cow|calf|lamb|牛|牛犊|羊羔
        sheep|lamb|foal|绵羊|羊羔|马驹
        horse|foal|calf|马|马驹|牛犊
        pig|piglet|chick|猪|小猪|小鸡
        hen|chick|duckling|鸡|小鸡|小鸭
        duck|duckling|cub|鸭子|小鸭|小熊
        goose|gosling|piglet|鹅|小鹅|小猪
        goat|kid|joey|山羊|小山羊|小袋鼠
        bear|cub|kid|熊|小熊|小山羊
        kangaroo|joey|fawn|袋鼠|小袋鼠|小鹿
        deer|fawn|gosling|鹿|小鹿|小鹅
        swan|cygnet|chick|天鹅|小天鹅|小鸡
        """,
    ),
    Topic(
        "next",
        {
            "en": Wording(
                ("What comes right after {x}?", "{x} is over. What comes next?", "Which one follows {x}?"),
                "After {x} comes {y}.",
                ("The order is the same every time.", "A calendar shows the whole order."),
            ),
            "zh": Wording(
                ("{x}之后是什么？", "{x}过完了，接下来是什么？", "紧跟在{x}后面的是什么？"),
                "{x}之后是{y}。",
                ("这个顺序每次都一样。", "看一看日历就知道完整的顺序。"),
            ),
        },
        """
        Monday|Tuesday|Friday|星期一|星期二|星期五
        Tuesday|Wednesday|Sunday|星期二|星期三|星期日
        Wednesday|Thursday|Monday|星期三|星期四|星期一
        Thursday|Friday|Tuesday|星期四|星期五|星期二
        Friday|Saturday|Thursday|星期五|星期六|星期四
        Saturday|Sunday|Wednesday|星期六|星期日|星期三
        January|February|June|一月|二月|六月
        February|March|July|二月|三月|七月
        March|April|August|三月|四月|八月
        April|May|September|四月|五月|九月
        May|June|October|五月|六月|十月
        June|July|December|六月|七月|十二月
        August|September|May|八月|九月|五月
        October|November|March|十月|十一月|三月
        spring|summer|winter|春天|夏天|冬天
        autumn|winter|spring|秋天|冬天|春天
        """,
    ),
    Topic(
        "tool",
        {
            "en": Wording(
                ("What is {x} used for?", "What can I do with {x}?", "Why do people own {x}?"),
                "You use {x} for {y}.",
                ("Most homes have one.", "Put it back in its place after use."),
            ),
            "zh": Wording(
                ("{x}是做什么用的？", "{x}有什么用？", "人们为什么要用{x}？"),
                "{x}是用来{y}的。",
                ("大多数家庭都有一件。", "用完后记得放回原处。"),
            ),
        },
        """
        a hammer|driving nails|cutting bread|锤子|钉钉子|切面包
        a saw|cutting wood|sweeping floors|锯子|锯木头|扫地
        a broom|sweeping floors|boiling water|扫帚|扫地|烧水
        a kettle|boiling water|writing letters|水壶|烧水|写信
        a needle|sewing clothes|digging holes|针|缝衣服|挖坑
        a spade|digging holes|telling the time|铲子|挖坑|看时间
        a clock|telling the time|sewing clothes|钟|看时间|缝衣服
        a pen|writing letters|drying hair|钢笔|写信|擦干头发
        a towel|drying hair|driving nails|毛巾|擦干头发|钉钉子
        a lamp|lighting a room|cutting wood|台灯|照亮房间|锯木头
        a scale|weighing things|lighting a room|秤|称重量|照亮房间
        an umbrella|staying dry in the rain|weighing things|雨伞|挡雨|称重量
        a ladder|reaching high places|cooling food|梯子|够到高处|冷藏食物
        a fridge|cooling food|reaching high places|冰箱|冷藏食物|够到高处
        a pillow|resting the head|opening cans|枕头|枕着睡觉|开罐头
        a rope|tying things together|toasting bread|绳子|捆东西|烤面包
        """,
    ),
    Topic(
        "worker",
        {
            "en": Wording(
                ("Who {x}?", "Which worker {x}?", "What do we call a person who {x}?"),
                "A {y} is the person who {x}.",
                ("It takes years of practice.", "It is a useful job in every town."),
            ),
            "zh": Wording(
                ("谁负责{x}？", "{x}的人叫什么？", "哪种职业的人{x}？"),
                "{x}的人是{y}。",
                ("这份工作需要多年的练习。", "每个城镇都需要这样的人。"),
            ),
        },
        """
        bakes bread|baker|tailor|烤面包|面包师|裁缝
        sews suits|tailor|baker|做西装|裁缝|面包师
        flies planes|pilot|farmer|开飞机|飞行员|农民
        grows wheat|farmer|pilot|种小麦|农民|飞行员
        treats sick animals|vet|judge|给动物看病|兽医|法官
        puts out fires|firefighter|painter|灭火|消防员|画家
        teaches children|teacher|plumber|教孩子|教师|水管工
        mends water pipes|plumber|teacher|修水管|水管工|教师
        cuts hair|barber|sailor|理发|理发师|水手
        works on ships|sailor|barber|在船上工作|水手|理发师
        treats teeth|dentist|miner|治牙|牙医|矿工
        digs for coal|miner|dentist|挖煤|矿工|牙医
        catches fish|fisherman|nurse|捕鱼|渔民|护士
        cares for patients|nurse|fisherman|照顾病人|护士|渔民
        paints pictures|painter|firefighter|画画|画家|消防员
        keeps bees|beekeeper|dancer|养蜜蜂|养蜂人|舞蹈演员
        """,
    ),
    Topic(
        "place",
        {
            "en": Wording(
                ("Where can I {x}?", "I want to {x}. Where do I go?", "Which place is right if I need to {x}?"),
                "To {x}, go to {y}.",
                ("Look up the opening hours before you leave.", "The staff there will help you."),
            ),
            "zh": Wording(
                ("我可以在哪里{x}？", "我想{x}，应该去哪里？", "要{x}，去什么地方合适？"),
                "要{x}，可以去{y}。",
                ("出门前最好查一下营业时间。", "那里的工作人员会帮助你。"),
            ),
        },
        """
        borrow books|the library|the bakery|借书|图书馆|面包店
        send a parcel|the post office|the zoo|寄包裹|邮局|动物园
        see a lion|the zoo|the post office|看狮子|动物园|邮局
        buy fresh bread|the bakery|the library|买新鲜面包|面包店|图书馆
        watch a film|the cinema|the bank|看电影|电影院|银行
        open an account|the bank|the cinema|开账户|银行|电影院
        catch a train|the railway station|the gym|坐火车|火车站|健身房
        board a plane|the airport|the market|坐飞机|机场|菜市场
        buy vegetables|the market|the airport|买蔬菜|菜市场|机场
        buy medicine|the pharmacy|the museum|买药|药店|博物馆
        see old paintings|the museum|the pharmacy|看古画|博物馆|药店
        lift weights|the gym|the railway station|练举重|健身房|火车站
        swim indoors|the swimming pool|the bookshop|在室内游泳|游泳馆|书店
        buy a novel|the bookshop|the swimming pool|买小说|书店|游泳馆
        """,
    ),
)
