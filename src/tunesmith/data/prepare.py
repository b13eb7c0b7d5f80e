"""From a configuration to the examples of a run: all datasets taken in, split, judged and accounted for.

This is the only place where rows are cut or dropped, and each is entered in the row ledger. A run is
refused here, before any model is loaded, when it would train on nothing or teach the model not to stop.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.catalog import Dataset, open_catalog
from tunesmith.data.intake import Intake
from tunesmith.data.kinds import KINDS, STAGE_KIND, KindName
from tunesmith.data.kinds.base import ExampleRenderer, Rendering
from tunesmith.data.ledger import Ledger
from tunesmith.data.placeholders import Placeholders
from tunesmith.data.rowset import BuiltRows, RowSet
from tunesmith.data.split import choose_held_out, num_held_out
from tunesmith.data.store import ExampleStore
from tunesmith.data.textfile import sha256_of_file
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.config import Config


@dataclass(frozen=True)
class Prepared:
    """What a run trains and evaluates on.

    Attributes:
        train: the training examples.
        evals: evaluation examples; "" is the only or merged set, other keys name one dataset each.
        ledger: the account of all input rows.
        fingerprint: named hashes of everything the examples depend on; a resumed run compares them by name.
    """

    train: ExampleStore
    evals: dict[str, ExampleStore]
    ledger: Ledger
    fingerprint: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What the user should know about the data; part of the ledger's summary lines too."""
        return self.ledger.notes


def prepare(
    config: Config,
    renderer: ExampleRenderer,
    config_dir: Path,
    *,
    need_eval: bool,
    kind: KindName | None = None,
) -> Prepared:
    """Read, convert, render and account for all rows of a configuration.

    Args:
        config: the settings; `dataset`, `eval_dataset`, `val_size`, `cutoff_len` and the like.
        renderer: turns rows into tokens with weights.
        config_dir: the folder of the configuration file.
        need_eval: whether evaluation sets are wanted; rows held out by `val_size` are not trained on either way.
        kind: what the rows are read as; None: what the stage learns from.
    Raises: DataError when data are missing, unusable, or would train on nothing or on too few stop tokens.
    """
    _check_settings(config)
    catalog = open_catalog(config.dataset_dir, config_dir)
    ledger = Ledger()
    intake = make_intake(config, renderer, ledger, kind)
    datasets = [catalog.find(name) for name in config.dataset]
    eval_datasets = [catalog.find(name) for name in config.eval_dataset] if need_eval else []
    rows_in = RowSet()
    for dataset in datasets:
        intake.take(dataset, rows_in, "train")
    eval_rows = _take_evals(intake, eval_datasets, rows_in, merged=not config.eval_on_each_dataset)
    train, held_out = _hold_out(rows_in.build(), config.val_size or 0.0, config.seed, ledger)
    if held_out is not None and need_eval:
        eval_rows[""] = held_out
    ledger.totals["train"] = train.totals()
    ledger.totals |= {f"eval {name}".strip(): rows.totals() for name, rows in eval_rows.items()}
    ledger.notes.extend(intake.placeholders.notes())
    ledger.check()
    _refuse_nothing(train, ledger)
    _refuse_missing_stops(train, config.min_stop_fraction, config.cutoff_len, intake.kind)
    finish = KINDS[intake.kind].finish
    store = finish(train.store, "train", config.cutoff_len)
    evals = {name: finish(rows.store, "eval", config.cutoff_len) for name, rows in eval_rows.items()}
    return Prepared(store, evals, ledger, _fingerprint([*datasets, *eval_datasets], store, evals))


def _check_settings(config: Config) -> None:
    assert config.stage in STAGE_KIND, "other stages are refused when the configuration is read"
    if not config.dataset:
        raise DataError("no dataset is named", where="dataset", fix="add `dataset: NAME_OR_PATH` to the configuration")
    if config.val_size and config.eval_dataset:
        raise DataError("both val_size and eval_dataset are given", where="val_size", fix="remove one of them")
    if config.mix_strategy != "concat":
        raise DataError(
            f"mix_strategy: {config.mix_strategy} is not available yet", where="mix_strategy", fix="use concat"
        )


def make_intake(config: Config, renderer: ExampleRenderer, ledger: Ledger, kind: KindName | None = None) -> Intake:
    """The settings that all datasets of a configuration are taken in with."""
    from tunesmith.render import RenderPolicy

    kind = kind or STAGE_KIND[config.stage]
    policy = RenderPolicy(mask_history=True)
    if kind == "conversation":
        policy = RenderPolicy(train_on_prompt=config.train_on_prompt, mask_history=config.mask_history)
    return Intake(
        rendering=Rendering(renderer, policy, config.cutoff_len),
        ledger=ledger,
        placeholders=Placeholders(config.identity_name, config.identity_author),
        stage=config.stage,
        kind=kind,
        seed=config.seed,
        max_samples=config.max_samples,
        on_bad_row=config.on_bad_row,
        drop_duplicates=config.on_duplicate == "drop",
    )


def _take_evals(intake: Intake, datasets: Sequence[Dataset], train: RowSet, *, merged: bool) -> dict[str, BuiltRows]:
    """The evaluation sets by key, and a note when their rows are trained on too."""
    row_sets: dict[str, RowSet] = {}
    for dataset in datasets:
        key = "" if merged else _free_key(Path(dataset.name).stem, row_sets)
        intake.take(dataset, row_sets.setdefault(key, RowSet()), "eval")
    num_rows = sum(len(rows.digests) for rows in row_sets.values())
    contents = train.contents()
    num_overlap = sum(digest in contents for rows in row_sets.values() for digest in rows.digests)
    intake.ledger.num_overlap = num_overlap
    if num_overlap:
        intake.ledger.notes.append(
            f"{num_overlap} of {num_rows} evaluation rows are also in the training data: "
            "the evaluation will look better than it is"
        )
    return {key: rows.build() for key, rows in row_sets.items()}


def _free_key(name: str, taken: Collection[str]) -> str:
    """`name`, or `name_2` and so on where two files have the same name."""
    candidates = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 2)))
    return next(key for key in candidates if key not in taken)


def _hold_out(rows: BuiltRows, val_size: float, seed: int, ledger: Ledger) -> tuple[BuiltRows, BuiltRows | None]:
    num_rows = len(rows.digests)
    if not val_size or not num_rows:
        return rows, None
    wanted = num_held_out(val_size, num_rows)
    chosen = choose_held_out(rows.digests, wanted, seed)
    if not chosen:
        raise DataError(
            f"val_size: {val_size:g} cannot hold out {wanted} of {num_rows} rows: every group of equal rows is larger",
            where="val_size",
            fix="raise val_size, set `on_duplicate: drop`, or name an eval_dataset",
        )
    ledger.num_held_out = len(chosen)
    ledger.notes.append(
        f"{len(chosen)} of {num_rows} rows are held out for evaluation (val_size: {val_size:g}); "
        "equal rows stay on one side"
    )
    return rows.select_rows(set(range(num_rows)) - chosen), rows.select_rows(chosen)


def _refuse_nothing(train: BuiltRows, ledger: Ledger) -> None:
    if len(train.store):
        return
    dropped = ledger.dropped()
    raise DataError(
        "no row is left to train on",
        where=str(dropped[0].ref) if dropped else "dataset",
        why="\n".join(ledger.summary_lines()),
        fix=dropped[0].fix if dropped else "name a dataset that holds rows",
    )


def _refuse_missing_stops(train: BuiltRows, min_stop_fraction: float, cutoff_len: int, kind: KindName) -> None:
    """Raises: DataError when too few trained turns end in a trained stop token, with the cause."""
    num_turns, num_stops = int(train.turns.sum()), int(train.stops.sum())
    if not num_turns or num_stops >= min_stop_fraction * num_turns:
        return
    if kind == "text":
        raise DataError(
            f"the tokenizer names no end token, so none of the {num_turns} documents would end",
            where="model_name_or_path",
            why="the model would learn not to stop",
            fix="choose a model whose tokenizer has an end token, or accept it with `min_stop_fraction: 0`",
        )
    num_missing_whole = int((train.turns - train.stops)[~train.cut].sum())
    what = (
        f"only {num_stops} of {num_turns} trained turns ({100 * num_stops / num_turns:.1f} %) end in a trained "
        f"stop token; min_stop_fraction asks for {100 * min_stop_fraction:.1f} %: the model would learn not to stop"
    )
    if num_missing_whole > num_turns - num_stops - num_missing_whole:
        raise DataError(
            what,
            where="template",
            why=f"the template has no end token: {num_missing_whole} turns that are not cut have no stop token",
            fix="choose the template of this model, or accept it with `min_stop_fraction: 0`",
        )
    longest = int(train.full_lengths.max())
    accepted = math.floor(100 * num_stops / num_turns) / 100
    raise DataError(
        what,
        where=f"cutoff_len: {cutoff_len}",
        why=f"answers are longer than cutoff_len: {int(train.cut.sum())} rows are cut; the longest has {longest} tokens"
        f"; 99 % have at most {int(np.quantile(train.full_lengths, 0.99, method='higher'))}",
        fix=f"set `cutoff_len: {longest}`, or accept it with `min_stop_fraction: {accepted}`",
    )


def _fingerprint(datasets: Sequence[Dataset], train: ExampleStore, evals: dict[str, ExampleStore]) -> dict[str, str]:
    """One named hash per data file, and of the rows as they are trained and evaluated on."""
    parts = {f"{dataset.name}: {file.name}": sha256_of_file(file) for dataset in datasets for file in dataset.files}
    parts["rows"] = train.content_hash()
    parts |= {f"evaluation rows {name}".strip(): store.content_hash() for name, store in evals.items()}
    return parts
