"""The weight that a step is divided by is the weight that its rows train on."""

from __future__ import annotations

import numpy as np

from tunesmith.config import Config
from tunesmith.data.collate import collate
from tunesmith.data.store import StoreBuilder
from tunesmith.train.stages.sft import SupervisedFineTuning
from tunesmith.types import RowRef


def test_known_weights_equal_those_of_the_rows_even_where_the_prompt_is_trained() -> None:
    """With `train_on_prompt` the first token has a weight, but nothing predicts it."""
    builder = StoreBuilder()
    for number, weights in enumerate(([1.0, 1.0, 1.0], [0.0, 0.5, 1.0, 1.0], [1.0, 0.0])):
        builder.add(list(range(3, 3 + len(weights))), weights, RowRef("rows", "rows.json", number + 1, number))
    store = builder.build()
    known = SupervisedFineTuning(Config()).example_weights(store)
    assert known.tolist() == [2.0, 2.5, 0.0]
    trained = [float(collate(store, [index]).weights_N.sum()) for index in range(3)]
    assert np.allclose(known, trained)
