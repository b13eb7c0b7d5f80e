"""The hubs that models come from and go to: which one is meant, with which token, and what their clients raise."""

from __future__ import annotations

import os
import re
from typing import Any

from tunesmith.errors import ModelError

REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
HUBS = ("huggingface", "modelscope")
_TRUE = ("1", "true", "y", "yes", "on")


def hub_of(named: str | None) -> str:
    """The hub that is named, else the one that USE_MODELSCOPE_HUB chooses."""
    if named is not None:
        return named
    return "modelscope" if os.environ.get("USE_MODELSCOPE_HUB", "").strip().lower() in _TRUE else "huggingface"


def modelscope_token(given: str | None) -> str | None:
    """The token for ModelScope: the setting, else the environment variable that its client reads."""
    return given or os.environ.get("MODELSCOPE_API_TOKEN")


def import_modelscope() -> tuple[Any, tuple[type[Exception], ...]]:
    """ModelScope's `HubApi` and the errors its calls raise. Raises: ModelError when the package is missing."""
    try:
        from modelscope.hub import errors
        from modelscope.hub.api import HubApi
    except ImportError as error:
        raise ModelError(
            "ModelScope needs the package modelscope, which is not installed",
            fix='pip install "tunesmith[modelscope]"',
        ) from error
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    return HubApi, tuple(found)


def network_errors() -> tuple[type[Exception], ...]:
    """What the hubs' clients raise when a connection fails.

    huggingface_hub has changed its HTTP library before, but its own error derives from the library's, whose root
    covers failed connections as well. `requests`, which ModelScope uses, derives from OSError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"))
