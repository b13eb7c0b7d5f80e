"""The rows on which an export is measured before and after: the run's own held-out rows where there are any.

In order: rows of `eval_dataset`, the rows that `val_size` held out, the last rows of the training data, else a few
built-in texts in English and Chinese. Which they were is part of the proof: a loss on training rows is no test of the
model, but as good a test of the export. At most 16 rows of 512 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import UserError
from tunesmith.render import Renderer

NUM_ROWS, MAX_TOKENS = 16, 512
MAX_DATA_BYTES = 64 * 10**6
"""Larger data are not rendered again just to find the rows that were held out."""
RUN_FILE = "run.yaml"
TEXTS = (
    "A lighthouse stands on the rock where the current turns. At dusk its lamp begins to sweep across the water, and "
    "the boats that have been out since morning set their course by it.",
    "To bake a loaf of bread, mix flour, water, salt and yeast, let the dough rise until it has doubled, shape it, let "
    "it rise again, and bake it in a hot oven until the crust is brown.",
    "Question: A train leaves at 9:40 and arrives at 11:05. How long is the journey? Answer: One hour and twenty-five "
    "minutes.",
    "def mean(values):\n    if not values:\n        raise ValueError('empty')\n    return sum(values) / len(values)\n",
    "彩虹是阳光照进空气中的水滴，经过折射和反射以后形成的。外侧是红色，内侧是紫色。",
    "如果明天下雨，请记得带伞，并且早一点出门，因为路上可能会堵车。",
)


@dataclass(frozen=True)
class HeldOut:
    """`rows` hold `ids` and `weights` of equal length; `source` says in words where they come from."""

    source: str
    rows: list[dict[str, list[Any]]]


def held_out_rows(config: Config, run_dir: Path | None, renderer: Renderer) -> HeldOut:
    """The rows for a model that `run_dir` has tuned, or that no run is known of."""
    if run_dir is None or not (run_dir / RUN_FILE).is_file():
        return _built_in(renderer, "no run folder is known")
    try:
        return _of_run(run_dir, renderer)
    except UserError as error:
        return _built_in(renderer, f"the rows of the run cannot be read: {error.what}")


def _of_run(run_dir: Path, renderer: Renderer) -> HeldOut:
    from tunesmith.config.resolve import resolve
    from tunesmith.data.prepare import prepare

    resolved = resolve([str(run_dir / RUN_FILE)], verb="train", collect=True)
    run = resolved.config
    if run.stage not in ("sft", "pt"):
        return _built_in(renderer, f"stage {run.stage} learns from other rows than plain answers")
    size_bytes = _data_bytes(run, resolved.config_dir)
    if size_bytes > MAX_DATA_BYTES:
        return _built_in(renderer, f"the data of the run are {size_bytes / 1e6:.0f} MB")
    prepared = prepare(run, renderer, resolved.config_dir, need_eval=True)
    names = ", ".join(run.eval_dataset or run.dataset)
    if prepared.evals:
        store = next(iter(prepared.evals.values()))
        how = f"eval_dataset {names}" if run.eval_dataset else f"held out of {names} by val_size"
    else:
        store, how = prepared.train, f"the end of the training data {names}"
    chosen = range(max(0, len(store) - NUM_ROWS), len(store))
    rows = [_row(*store.example(index)) for index in chosen]
    rows = [row for row in rows if any(row["weights"][1:])]
    if not rows:
        return _built_in(renderer, f"no row of {names} trains on a token among its first {MAX_TOKENS}")
    return HeldOut(f"{len(rows)} rows: {how}", rows)


def _data_bytes(config: Config, config_dir: Path) -> int:
    from tunesmith.data.catalog import open_catalog

    catalog = open_catalog(config.dataset_dir, config_dir)
    named = [catalog.find(name) for name in (*config.dataset, *config.eval_dataset)]
    return sum(Path(file).stat().st_size for dataset in named for file in dataset.files)


def _row(ids: Any, weights: Any) -> dict[str, list[Any]]:
    return {"ids": [int(one) for one in ids[:MAX_TOKENS]], "weights": [float(one) for one in weights[:MAX_TOKENS]]}


def _built_in(renderer: Renderer, reason: str) -> HeldOut:
    start = renderer.text_start_id
    rows: list[dict[str, list[Any]]] = []
    for text in TEXTS:
        ids = [*([start] if start is not None else []), *renderer.text_ids(text)]
        rows.append({"ids": ids, "weights": [0.0] + [1.0] * (len(ids) - 1)})
    return HeldOut(f"{len(rows)} built-in texts ({reason})", rows)
