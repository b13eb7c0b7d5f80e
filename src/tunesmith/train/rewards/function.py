"""Rewards from a Python function that the user names: `path/to/rewards.py:function` or `package.module:function`.

The file is the user's own code and is executed with the rights of the training, exactly like a script that is started
by hand. It is never fetched from anywhere. The call follows TRL's convention for reward functions, so functions
written for it work here when they read completions as plain text:

    def shorter_is_better(completions, **columns):
        return [-len(text) / 100 for text in completions]

Keywords: `prompts` (what the model read, with its special tokens), `completions` (texts), `prompt_ids`,
`completion_ids`, `finished`, and every column of the row, `messages` (the turns) and `response` (the row's own answer)
among them; each a list with one entry per completion. A function gets those that it names, or all of them when it
takes `**anything`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.errors import ConfigError, TrainingError, did_you_mean
from tunesmith.train.rewards.sample import Sample, checked_scores, describe, require_column
from tunesmith.types import RowRef

GIVEN: dict[str, Callable[[Sample], Any]] = {
    "prompts": lambda sample: sample.prompt_text,
    "completions": lambda sample: sample.completion_text,
    "prompt_ids": lambda sample: list(sample.prompt_ids),
    "completion_ids": lambda sample: list(sample.completion_ids),
    "finished": lambda sample: sample.finished,
}
"""The keywords that are always there; a column of the same name is not passed."""


class FunctionReward:
    """Scores with a Python function.

    Args:
        function: called as `function(prompts=[...], completions=[...], **columns)`, returns one number per completion.
        name: as the user wrote it.
        file: the file that the function comes from, to point into it when it raises.
    """

    def __init__(self, function: Callable[..., Any], name: str, file: str = "") -> None:
        self.name = name
        self._function = function
        self._file = file
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._named = tuple(p.name for p in named)
        self._required = tuple(p.name for p in named if p.default is p.empty)
        nameless = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
        if nameless:
            raise ConfigError(
                f"reward function {name} takes '{nameless[0]}' by position only",
                fix=f"remove the `/`; it is called by keyword, as {name}(prompts=..., completions=..., **columns)",
            )

    def check_row(self, fields: Mapping[str, Any], ref: RowRef) -> None:
        """Raises: DataError when the function asks for a column (without a default) that the row does not have."""
        for wanted in self._required:
            require_column(self.name, wanted, {**fields, **GIVEN}, ref)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One finite number per sample. Raises: TrainingError naming the function, the row and the completion."""
        if not samples:
            return []
        try:
            values = self._function(**self._arguments(samples))
        except Exception as err:
            raise self._failure(err, samples) from err
        try:
            return checked_scores(values, samples, f"reward function {self.name}")
        except TrainingError:
            if inspect.iscoroutine(values):
                values.close()
                raise TrainingError(
                    f"reward function {self.name} is asynchronous", fix="write it as a plain `def`"
                ) from None
            raise

    def _arguments(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        columns = dict.fromkeys(column for sample in samples for column in sample.fields if column not in GIVEN)
        wanted = [*GIVEN, *columns] if self._takes_all else [n for n in self._named if n in GIVEN or n in columns]
        return {
            name: [GIVEN[name](sample) if name in GIVEN else sample.fields.get(name) for sample in samples]
            for name in wanted
        }

    def _failure(self, err: Exception, samples: Sequence[Sample]) -> TrainingError:
        """The message; called with one completion at a time, the function shows which one it cannot take."""
        culprit = next((sample for sample in samples if self._raises_on(sample)), None)
        where = describe(culprit or samples[0])
        if culprit is None and len(samples) > 1:
            where += f" (first of {len(samples)}; no completion alone makes it raise)"
        line = _line_in(err, self._file)
        return TrainingError(
            f"reward function {self.name} raised {type(err).__name__}: {err}",
            where=f"{line}; {where}" if line else where,
            fix="correct the function and start the same command again: the run goes on from its last checkpoint",
        )

    def _raises_on(self, sample: Sample) -> bool:
        try:
            self._function(**self._arguments([sample]))
        except Exception:
            return True
        return False


def load_function(target: str, folders: Sequence[Path]) -> FunctionReward:
    """The function behind `path/to/file.py:function` or `package.module:function`; the code is executed.

    Args:
        folders: where a relative path is looked for, in this order.

    Raises:
        ConfigError: no such file, module or function, or the file itself fails.
    """
    source, _, attribute = target.rpartition(":")
    is_file = source.endswith(".py")
    module = _run_file(_find(source, folders), target) if is_file else _import(source, target)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
        raise ConfigError(
            f"{source} has no function '{attribute}'" if function is None else f"{target} is no function",
            fix=f"{did_you_mean(attribute, known)} It has: {', '.join(sorted(known)) or 'no functions'}.".strip(),
        )
    return FunctionReward(function, target, module.__file__ or "")


def _find(source: str, folders: Sequence[Path]) -> Path:
    places = list(dict.fromkeys((folder / Path(source).expanduser()).resolve() for folder in folders))
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"there is no reward file {source}",
        where=" or ".join(str(place) for place in places),
        fix="give its path relative to the training file or to the working directory",
    )


def _run_file(path: Path, target: str) -> ModuleType:
    """Execute a file as a module of its own; while it loads, its neighbours can be imported."""
    unique = "tunesmith_reward_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pickling look a module up by its name
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[unique]
        raise _broken(target, err, str(path)) from err
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or not f"{name}.".startswith(f"{err.name}."):
            raise _broken(target, err, "") from err
        raise ConfigError(
            f"there is no module '{err.name}' for the reward function {target}",
            fix="install the package, or name a file: path/to/rewards.py:function",
        ) from err
    except Exception as err:
        raise _broken(target, err, "") from err


def _broken(target: str, err: Exception, file: str) -> ConfigError:
    return ConfigError(
        f"the reward function {target} cannot be loaded: {type(err).__name__}: {err}",
        where=_line_in(err, file) or file,
        fix="run the file with python by itself to see the whole traceback",
    )


def _line_in(err: BaseException, file: str) -> str:
    """`file:line` of the innermost frame of `err` in that file; for a syntax error the line it names."""
    if isinstance(err, SyntaxError) and err.filename == file:
        return f"{file}:{err.lineno}"
    frames = traceback.extract_tb(err.__traceback__)
    return next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if f.filename == file), "")
