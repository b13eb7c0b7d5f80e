"""Writes the demo data of data/demo/: small, invented, and the same bytes on every run.

    python -m scripts.demo_data            write the files again
    python -m scripts.demo_data --check    compare them with what the generators give (exit code 1 on a difference)

Standard library only. Every file has its own stream of random numbers, derived from `SEED` and the file's name
(dice.py), so that changing one generator leaves the other files as they are. A generator is a function from a
language and a split to a list of rows; files.py lists them. What the data are is told in data/README.md.
"""
