"""The literal tables of chat templates, one module per model family.

Each module holds `TEMPLATES`, a tuple of `Template`. To add one, write an entry in the table of its family (or a
new module, named in `template.FAMILY_MODULES`); see docs/howto/add-a-template.md.
"""
