"""The rows that GPTQ and AWQ look at while they round: rendered as in training, counted, drawn with the seed.

`export_quantization_dataset` names a registered dataset or a file. Rows with a `text` column are read as documents, any
other layout as conversations in the model's template, since a chat model is calibrated best on what it will see. Both
methods round so that the layer's outputs on these rows change least, so rows unlike the use make a worse model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.config import Config
from tunesmith.render import Renderer

ROWS_PER_SAMPLE = 20
"""Rows read for each that is drawn: enough to draw from, and no pass over a corpus of many GB."""


@dataclass(frozen=True)
class Calibration:
    """Token ids of the pieces that were drawn, and out of how many, from where; a long document makes several."""

    rows: list[list[int]]
    num_found: int
    source: str

    def describe(self) -> str:
        """One line for the terminal."""
        num_tokens = sum(len(row) for row in self.rows)
        return f"calibrating on {len(self.rows)} of {self.num_found} pieces of {self.source}, {num_tokens:,} tokens"


def calibration_rows(config: Config, renderer: Renderer, config_dir: Path) -> Calibration:
    """Draw `export_quantization_nsamples` rows of at most `export_quantization_maxlen` tokens.

    Raises: DataError when the dataset is not there or holds nothing usable.
    """
    from tunesmith.data.catalog import open_catalog
    from tunesmith.data.intake import NUM_PEEKED_ROWS, peek, read_dataset
    from tunesmith.data.ledger import Ledger
    from tunesmith.data.prepare import make_intake
    from tunesmith.data.rowset import RowSet

    name = str(config.export_quantization_dataset)
    dataset = open_catalog(config.dataset_dir, config_dir).find(name)
    first, _ = peek(read_dataset(dataset), NUM_PEEKED_ROWS)
    is_text = dataset.entry is None and bool(first) and isinstance(first[0].get("text"), str)
    reading = replace(
        config,
        stage="pt" if is_text else "sft",
        cutoff_len=config.export_quantization_maxlen,
        max_samples=config.export_quantization_nsamples * ROWS_PER_SAMPLE,
    )
    rows = RowSet()
    make_intake(reading, renderer, Ledger()).take(dataset, rows, "train")
    store = rows.build().store
    count = min(len(store), config.export_quantization_nsamples)
    chosen = sorted(random.Random(config.seed).sample(range(len(store)), k=count))
    return Calibration([[int(one) for one in store.example(index)[0]] for index in chosen], len(store), name)
