"""The names that `reward_functions` may hold, and how they become sources; own code is tried last.

rewards.py:brevity                a Python function of a file (executed)      package.module:function
regex:PATTERN, fullmatch:PATTERN  the pattern is in the answer; is the answer
exact, exact:COLUMN               the final answer is the column's (default column: answer)
json, json_equal[:COLUMN]         the answer is JSON; equals the column's value (default column: answer)
json_schema[:COLUMN|:FILE.json]   a schema accepts the answer (default column: schema)
finished, overlong:LIMIT:MARGIN   the answer ended by itself; became too long
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tunesmith.config import Config
from tunesmith.errors import ConfigError, did_you_mean
from tunesmith.train.rewards.checks import exact_answer, finished, overlong, pattern
from tunesmith.train.rewards.combine import Rewards
from tunesmith.train.rewards.endpoint import EndpointReward
from tunesmith.train.rewards.function import load_function
from tunesmith.train.rewards.model import named_reward_model
from tunesmith.train.rewards.sample import Reward
from tunesmith.train.rewards.structured import json_equal, json_schema, valid_json

_OWN_CODE = re.compile(r"(?:.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")
_ALONE, _WITH_MORE = ("json", "finished"), ("regex", "fullmatch", "overlong")
FORMS = ("regex:PATTERN", "fullmatch:PATTERN", "exact", "json", "json_equal", "json_schema", "finished", "overlong:L:M")

Open = Callable[[str, str, Sequence[Path]], Reward]
"""(the whole name, what follows its first colon, folders for relative paths) -> the source."""


def rewards_from_config(config: Config, config_dir: Path) -> Rewards:
    """Every source that the configuration names: first `reward_model`, then `reward_functions`.

    No weights are read: `Rewards.open` does that, once the policy stands.

    Args:
        config_dir: the folder of the training file; relative paths of functions and schemas are looked for there, then
            in the working directory.

    Raises:
        ConfigError: no source, or an unknown one; ModelError: a reward model's files are not there.
    """
    if not config.reward_model and not config.reward_functions:
        raise ConfigError(
            f"stage {config.stage} needs a reward, and none is named",
            fix="set reward_model to a reward model (stage: rm trains one), or reward_functions to a list",
        )
    folders = (config_dir, Path.cwd())
    openers: dict[str, Callable[[str], Reward]] = {
        "lora": lambda name: named_reward_model(config, name),
        "full": lambda name: named_reward_model(config, name),
        "api": lambda name: EndpointReward(name, config.reward_timeout_s),
        "function": lambda name: open_source(name, folders),
    }
    models = [openers[config.reward_model_type](name) for name in config.reward_model]
    return Rewards([*models, *(open_source(name, folders) for name in config.reward_functions)], config.reward_weights)


def open_source(name: str, folders: Sequence[Path]) -> Reward:
    """The source of one entry of `reward_functions`. Raises: ConfigError when it is none."""
    kind, colon, rest = name.partition(":")
    if kind in _KINDS and not (rest and kind in _ALONE) and not (not rest and kind in _WITH_MORE):
        return _KINDS[kind](name, rest, folders)
    if _OWN_CODE.fullmatch(name):
        return load_function(name, folders)
    hint = did_you_mean(kind, _KINDS)
    raise ConfigError(
        f"'{name}' is no reward",
        why="a comma ends an entry unless the list is written as a YAML list" if not hint and not colon else "",
        fix=f"{hint} Use path/to/file.py:function, package.module:function, or one of {', '.join(FORMS)}.".strip(),
    )


def _open_schema(name: str, rest: str, folders: Sequence[Path]) -> Reward:
    if not rest.endswith(".json"):
        return json_schema(name, rest or "schema", None)
    places = [folder / Path(rest).expanduser() for folder in folders]
    return json_schema(name, "", next((place for place in places if place.is_file()), places[0]))


def _open_overlong(name: str, rest: str, folders: Sequence[Path]) -> Reward:
    numbers = rest.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"the reward {name} needs two numbers of tokens", fix="such as overlong:256:64")
    return overlong(name, int(numbers[0]), int(numbers[1]))


def _answers(column: str) -> tuple[str, ...]:
    """Where the right answer stands: the named column; else `answer`, or the row's own answer."""
    return (column,) if column else ("answer", "response")


_KINDS: dict[str, Open] = {
    "regex": lambda name, rest, _: pattern(name, rest, whole=False),
    "fullmatch": lambda name, rest, _: pattern(name, rest, whole=True),
    "exact": lambda name, rest, _: exact_answer(name, _answers(rest)),
    "json": lambda name, rest, _: valid_json(name),
    "json_equal": lambda name, rest, _: json_equal(name, _answers(rest)),
    "json_schema": _open_schema,
    "finished": lambda name, rest, _: finished(name),
    "overlong": _open_overlong,
}
