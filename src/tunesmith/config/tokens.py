"""The tokens that a configuration adds to the vocabulary: plain ones, special ones, and descriptions of the latter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tunesmith.config.schema import Config
from tunesmith.errors import ConfigError


@dataclass(frozen=True)
class NewTokens:
    """Tokens in the order in which they are added, the plain ones first.

    Attributes:
        descriptions: what special tokens mean, in words that the model knows.
    """

    plain: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def all(self) -> tuple[str, ...]:
        """Every token, in order."""
        return (*self.plain, *self.special)


def new_tokens(config: Config) -> NewTokens:
    """What `add_tokens`, `add_special_tokens` and `new_special_tokens_config` ask for; the last replaces the second.

    Raises:
        ConfigError: the description file is missing, or is not a mapping of tokens to texts.
    """
    descriptions = _descriptions(config.new_special_tokens_config)
    special = tuple(descriptions) or config.add_special_tokens
    return NewTokens(config.add_tokens, special, descriptions)


def _descriptions(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    key, example = f"`new_special_tokens_config: {name}`", 'such as `"<tool>": begins the name of a tool`'
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"{key}: no such file", fix="correct the path; it counts from the working directory")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(
            f"{key} is not valid YAML", why=str(err).splitlines()[0], fix=f"write lines {example}"
        ) from err
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{key} does not hold a mapping of tokens to descriptions", fix=f"write lines {example}")
    wrong = next((token for token, text in content.items() if not isinstance(text, str) or not text.strip()), None)
    if wrong is not None or not all(isinstance(token, str) and token for token in content):
        raise ConfigError(f"{key}: '{wrong}' has no description in words", fix=f"write lines {example}")
    return dict(content)
