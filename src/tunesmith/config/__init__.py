"""The one configuration: keys, files, overrides, rules, decisions, and the documentation made from them.

`Config` is a flat frozen dataclass; `tunesmith.config.resolve.resolve` makes it from a command line.
"""

from tunesmith.config.schema import Config

__all__ = ["Config"]
