"""The rows that a prediction answers: prompt tokens, the text of the row's own answer, and where the row stands.

Every row of the files becomes one `PredictRow`, in order; one that cannot be asked keeps its place with the reason.
The prompt is the renderer's, so it is the very beginning of the example that training makes of the row; the label is
decoded from the tokens that training would learn, so that it is written as the model was taught to write it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.data.catalog import Dataset, open_catalog
from tunesmith.data.intake import NUM_PEEKED_ROWS, Intake, peek, read_dataset
from tunesmith.data.kinds import STAGE_KIND, KindName
from tunesmith.data.ledger import Ledger
from tunesmith.data.prepare import make_intake, prepare
from tunesmith.data.rows import BadRow, Row
from tunesmith.data.textfile import sha256_of_file
from tunesmith.errors import DataError, UserError
from tunesmith.render import Renderer, RenderPolicy
from tunesmith.types import Conversation, Feedback, Message, Preference, Prompt, RowRef, Text, ToolSpec, TrainingRow

LAST_ANSWER = RenderPolicy(mask_history=True)


@dataclass(frozen=True, slots=True)
class PredictRow:
    """One row to answer.

    Attributes:
        number: its place among all rows, from 0; it is added to the seed, so an answer depends on nothing else.
        prompt_ids: what the model is fed; empty when there is a `problem`.
        label: the row's own answer as the template writes it; None when it has none (or a bad one, in stage kto).
        problem: why it cannot be asked; empty when it can.
    """

    number: int
    ref: RowRef
    prompt_ids: tuple[int, ...]
    label: str | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RowsToAnswer:
    """All rows, with the hashes of what they come from (by name) and what the user should know about them."""

    rows: tuple[PredictRow, ...]
    fingerprint: dict[str, str]
    notes: tuple[str, ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the datasets, in order."""
        return tuple(dict.fromkeys(row.ref.dataset for row in self.rows))


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """The rows of the files as they are read, before anything is made of them."""

    datasets: tuple[Dataset, ...]
    rows: tuple[tuple[RowRef, TrainingRow | BadRow], ...]
    intake: Intake
    notes: tuple[str, ...]


def choose_rows(config: Config, renderer: Renderer, config_dir: Path, kind: KindName) -> ChosenRows:
    """The rows of `eval_dataset`, else those that `val_size` holds out, else those of `dataset`.

    Raises: DataError when a dataset is missing, empty, or does not fit the stage.
    """
    catalog = open_catalog(config.dataset_dir, config_dir)
    datasets = tuple(catalog.find(name) for name in config.eval_dataset or config.dataset)
    held_out = None if config.eval_dataset or not config.val_size else _held_out(config, renderer, config_dir)
    ledger = Ledger()
    intake = make_intake(config, renderer, ledger, kind)
    rows = tuple(
        (ref, row)
        for dataset in datasets
        for ref, row in converted_rows(intake, dataset)
        if held_out is None or (ref.file, ref.index) in held_out
    )
    return ChosenRows(datasets, rows, intake, (*ledger.notes, *_choice_notes(config, len(rows))))


def read_rows(config: Config, renderer: Renderer, config_dir: Path) -> RowsToAnswer:
    """Every row that is to be answered.

    Raises: DataError as `choose_rows`, and when no row of a dataset can be asked.
    """
    chosen = choose_rows(config, renderer, config_dir, kind_to_ask(config.stage))
    asked = (_ask(renderer, row, ref) for ref, row in chosen.rows)
    rows = tuple(replace(row, number=number) for number, row in enumerate(asked))
    refuse_bad([(row.ref, row.problem) for row in rows], stop_at_first=config.on_bad_row == "error")
    content = [[row.prompt_ids, row.label, row.problem] for row in rows]
    return RowsToAnswer(rows, fingerprint_of(chosen.datasets, content), chosen.notes)


def kind_to_ask(stage: str) -> KindName:
    """What rows are read as: questions with or without an answer, where the stage does not need more."""
    kind = STAGE_KIND[stage]
    return "prompt" if kind == "conversation" else kind


def converted_rows(intake: Intake, dataset: Dataset) -> Iterator[tuple[RowRef, TrainingRow | BadRow]]:
    """Every chosen row of a dataset as its type, or why it is none. Raises: DataError when the dataset is empty."""
    first, stream = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
    layout = intake.lay_out(dataset, first)
    num_rows = 0
    for row in intake.choose(stream, layout):
        num_rows += 1
        yield row.ref, intake.convert_row(row, layout) if isinstance(row, Row) else row
    if not num_rows:
        raise DataError(f"dataset '{dataset.name}' is empty", fix="put rows there or do not name it")


def fingerprint_of(datasets: Sequence[Dataset], content: Iterable[Any]) -> dict[str, str]:
    """A hash of every data file, and of the rows as tokens (which also depend on template and system text)."""
    parts = {f"data {each.name}: {file.name}": sha256_of_file(file) for each in datasets for file in each.files}
    digest = hashlib.sha256()
    for row in content:
        digest.update(json.dumps(row).encode())
    return {**parts, "rows as tokens": digest.hexdigest()}


def _held_out(config: Config, renderer: Renderer, config_dir: Path) -> set[tuple[str, int]]:
    """(file, index) of the rows that training with these settings does not see."""
    store = prepare(config, renderer, config_dir, need_eval=True).evals[""]
    refs = (store.ref(index) for index in range(len(store)))
    return {(ref.file, ref.index) for ref in refs}


def _ask(renderer: Renderer, row: TrainingRow | BadRow, ref: RowRef) -> PredictRow:
    if isinstance(row, BadRow):
        return PredictRow(0, ref, (), None, row.reason)
    if isinstance(row, Text):
        start = () if renderer.text_start_id is None else (renderer.text_start_id,)
        return PredictRow(0, ref, start + renderer.text_ids(row.text), None)
    messages, tools, answer = _parts(row)
    try:
        prompt_ids = renderer.prompt(messages, tools)
        label = None if answer is None else label_text(renderer, messages, tools, answer)
    except UserError as error:
        return PredictRow(0, ref, (), None, ": ".join(part for part in (error.what, error.why) if part))
    return PredictRow(0, ref, prompt_ids, label)


def _parts(row: TrainingRow) -> tuple[tuple[Message, ...], tuple[ToolSpec, ...], Message | None]:
    """The turns before the answer, the tools, and the answer that a prediction is compared with."""
    if isinstance(row, Prompt):
        return row.messages, row.tools, row.answer
    if isinstance(row, Preference):
        return row.prompt, row.tools, row.chosen
    assert isinstance(row, Feedback)
    return row.prompt, row.tools, row.answer if row.desirable else None


def label_text(renderer: Renderer, messages: Sequence[Message], tools: Sequence[ToolSpec], answer: Message) -> str:
    """An answer as the template writes it, without its special tokens: what a perfect prediction would say."""
    whole = Conversation((*messages, replace(answer, weight=None)), tuple(tools))
    examples = renderer.examples(whole, LAST_ANSWER)
    if not examples:
        return ""
    learnt = [token for token, weight in zip(examples[-1].input_ids, examples[-1].weights, strict=True) if weight]
    return renderer.decode(learnt)


def refuse_bad(rows: Sequence[tuple[RowRef, str]], *, stop_at_first: bool) -> None:
    """Raises: DataError when no row of a dataset can be used, or one cannot and `on_bad_row: error` is set.

    Args:
        rows: where each row stands, and its problem ("" for none).
    """
    for name in dict.fromkeys(ref.dataset for ref, _ in rows):
        own = [(ref, problem) for ref, problem in rows if ref.dataset == name]
        bad = [(ref, problem) for ref, problem in own if problem]
        if bad and (stop_at_first or len(bad) == len(own)):
            raise DataError(
                f"{len(bad)} of {len(own)} rows of '{name}' cannot be asked",
                where=str(bad[0][0]),
                why="\n".join(f"{ref}: {problem}" for ref, problem in bad[:5]),
            )


def _choice_notes(config: Config, num_rows: int) -> list[str]:
    if config.eval_dataset:
        return []
    if config.val_size:
        return [f"the {num_rows} rows that val_size: {config.val_size:g} holds out of dataset are answered"]
    return ["no eval_dataset is named: the rows of dataset are answered; a model that was trained on them knows them"]
