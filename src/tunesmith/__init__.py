"""Tunesmith: fine-tune language models with every row accounted for and every number proven.

Importing this package costs nothing: no third-party module is loaded until a verb runs.
"""

__version__ = "0.1.0"
