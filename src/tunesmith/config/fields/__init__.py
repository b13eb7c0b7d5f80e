"""The configuration keys, one file per concern; every key is declared exactly once, here and nowhere else.

These files are tables: one `option(...)` per key, with default, bounds, choices and help in two languages. A key whose
capability does not exist yet carries `later`, one that is accepted without effect carries `noop`, each with its reason.
"""
