"""The dataset formats, by name: how a row of each becomes a `Conversation`.

A new format is one file with a `FORMAT` object and one line here; see docs/howto/add-a-format.md.
The order is the order in which formats are tried on a dataset that is named by its path alone.
"""

from __future__ import annotations

from tunesmith.data.schema import Layout
from tunesmith.errors import DataError
from tunesmith.registry import Registry

FORMATS = Registry(
    "dataset format",
    {
        "openai": "tunesmith.data.formats.openai:FORMAT",
        "sharegpt": "tunesmith.data.formats.sharegpt:FORMAT",
        "alpaca": "tunesmith.data.formats.alpaca:FORMAT",
    },
    error=DataError,
)


def default_layouts() -> dict[str, Layout]:
    """The default layout of every format, by name."""
    return {name: FORMATS.get(name).layout for name in FORMATS}
