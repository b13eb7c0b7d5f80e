"""The scores that a reward model gives both answers of every pair: `stage: rm` with `do_predict: true` alone.

The pairs are scored by the stage itself, so that a score is the same number as at the end of the training. Rows are
kept and judged as answers are: a line each, appended in groups of like length, in the order of the rows at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.data.kinds.base import RenderedRow
from tunesmith.data.rows import BadRow
from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.evaluate.identity import identify, model_to_ask
from tunesmith.evaluate.journal import ROW, journal_of
from tunesmith.evaluate.progress import Progress
from tunesmith.evaluate.results import speed_of, write_results
from tunesmith.evaluate.rows import choose_rows, fingerprint_of, refuse_bad
from tunesmith.infer.locate import Located, locate
from tunesmith.infer.session import open_renderer
from tunesmith.model.adapters import attach_adapters
from tunesmith.model.evaluating import evaluating
from tunesmith.model.load import inference_dtype, load_model
from tunesmith.model.scorer import Scorer
from tunesmith.model.value_head import load_value_head, require_value_head
from tunesmith.train.runtime import Runtime
from tunesmith.train.stages.rm import RewardModeling
from tunesmith.types import RowRef

NUM_PAIRS_AT_ONCE = 64
"""After so many pairs their lines are written."""

Line = dict[str, Any]


def predict_scores(resolved: Resolved, say: Callable[[str], None]) -> int:
    """Score every pair; returns the exit code, 0. Raises: UserError for anything that the user can put right."""
    asked = model_to_ask(resolved)
    located = locate(asked)
    require_value_head(_head_folder(located))
    config = replace(asked.config, model_name_or_path=located.model, adapter_name_or_path=located.adapters)
    pairs = _read_pairs(config, located, resolved.config_dir)
    identity = {**identify(config, located, None), **pairs.fingerprint}
    journal = journal_of(resolved.config, identity, len(pairs.lines))
    for note in (*located.notes, *pairs.notes, *journal.notes):
        say(f"note: {note}")
    started_s = time.monotonic()
    left = [number for number in range(len(pairs.lines)) if number not in journal.lines]
    progress = Progress(len(left), say)
    try:
        for line in _scored(config, located, pairs, left, say) if left else ():
            journal.append(line)
            progress.add(0)
    finally:
        progress.close()
        journal.close()
    lines = journal.finish()
    speed = speed_of(time.monotonic() - started_s, len(left))
    for text in write_results(journal.file.parent, _judge(config, lines), speed):
        say(text)
    say(f"{len(lines):,} lines in {journal.file}")
    return 0


def _head_folder(located: Located) -> Path:
    """Where the value head stands: with the last adapter, else with the model."""
    return Path(located.adapters[-1] if located.adapters else located.model)


@dataclass(frozen=True)
class _Pairs:
    """Every row's line without its scores, and the examples of those that can be scored.

    `examples[number]` is the place in `store` of the row's example.
    """

    lines: list[Line]
    examples: dict[int, int]
    store: ExampleStore
    fingerprint: dict[str, str]
    notes: tuple[str, ...]


def _read_pairs(config: Config, located: Located, config_dir: Path) -> _Pairs:
    chosen = choose_rows(config, open_renderer(config, located), config_dir, "preference")
    builder, examples, lines = StoreBuilder(), {}, []
    problems: list[tuple[RowRef, str]] = []
    for number, (ref, row) in enumerate(chosen.rows):
        rendered: RenderedRow | BadRow = row if isinstance(row, BadRow) else chosen.intake.render_row(row, ref)
        line: Line = {"chosen": None, "rejected": None, ROW: number, "dataset": ref.dataset, "file": ref.file}
        line |= {"line": ref.line, "index": ref.index}
        problem = rendered.reason if isinstance(rendered, BadRow) else ""
        if isinstance(rendered, RenderedRow):
            (example,) = rendered.examples
            examples[number] = len(builder)
            builder.add(example.ids, example.weights, ref, example.piece_lengths)
        lines.append({**line, "why": problem} if problem else line)
        problems.append((ref, problem))
    refuse_bad(problems, stop_at_first=config.on_bad_row == "error")
    store = builder.build()
    fingerprint = fingerprint_of(chosen.datasets, [store.content_hash(), [problem for _, problem in problems]])
    return _Pairs(lines, examples, store, fingerprint, chosen.notes)


def _scored(
    config: Config, located: Located, pairs: _Pairs, left: list[int], say: Callable[[str], None]
) -> Iterator[Line]:
    """The lines of these rows, the longest pairs first; those that cannot be scored last."""
    say(f"scoring with: {located.describe()}")
    runtime = Runtime(use_cpu=config.use_cpu)
    scorer = _load_scorer(config, located, runtime.device)
    stage = RewardModeling(config)
    sound = sorted((n for n in left if n in pairs.examples), key=lambda n: -int(pairs.store.lengths[pairs.examples[n]]))
    micro_batch_tokens = config.per_device_eval_batch_size * config.cutoff_len
    with evaluating(scorer):
        for start in range(0, len(sound), NUM_PAIRS_AT_ONCE):
            group = sound[start : start + NUM_PAIRS_AT_ONCE]
            store = pairs.store.select([pairs.examples[number] for number in group])
            for number, scores in zip(group, stage.predict(scorer, store, runtime, micro_batch_tokens), strict=True):
                yield {**pairs.lines[number], **{side: round(score, 6) for side, score in scores.items()}}
    yield from (pairs.lines[number] for number in left if number not in pairs.examples)


def _load_scorer(config: Config, located: Located, device: torch.device) -> Scorer:
    dtype = inference_dtype(config)
    model = load_model(config, dtype=dtype, device=device, adapters=located.adapters)
    head = load_value_head(_head_folder(located), model.config.get_text_config().hidden_size)
    model = attach_adapters(model, located.adapters).to(device).requires_grad_(False)
    return Scorer(model, dtype, device.type, head.to(device)).eval()


def _judge(config: Config, lines: list[Line]) -> dict[str, float]:
    """The stage's own metrics over the pairs that have scores."""
    scored = [line for line in lines if line["chosen"] is not None]
    found = RewardModeling(config).judge(scored) if scored else {}
    counts = {"num_rows": len(lines), "num_unanswered": len(lines) - len(scored)}
    return {f"predict_{name}": value for name, value in {**found, **counts}.items()}
