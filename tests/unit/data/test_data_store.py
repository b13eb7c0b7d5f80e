"""The example store: flat arrays, views, selection, hash."""

from __future__ import annotations

import sys

import numpy as np

from tunesmith.data.store import ExampleStore, StoreBuilder
from tunesmith.types import RowRef


def store_of(*examples: tuple[list[int], list[float]]) -> ExampleStore:
    builder = StoreBuilder()
    for index, (ids, weights) in enumerate(examples):
        builder.add(ids, weights, RowRef("d", f"file{index % 2}", index + 10, index))
    return builder.build()


EXAMPLES = (([1, 2, 3], [0.0, 1.0, 1.0]), ([4], [0.5]), ([5, 6], [0.0, 2.0]))


def test_examples_come_back_as_views_of_flat_arrays() -> None:
    store = store_of(*EXAMPLES)
    assert len(store) == 3
    assert store.lengths.tolist() == [3, 1, 2]
    assert (store.ids.dtype, store.weights.dtype) == (np.int32, np.float32)
    for index, (ids, weights) in enumerate(EXAMPLES):
        found_ids, found_weights = store.example(index)
        assert (found_ids.tolist(), found_weights.tolist()) == (ids, weights)
        assert np.shares_memory(found_ids, store.ids)
    assert (store.num_tokens, store.num_trained_tokens) == (6, 4)


def test_an_example_knows_its_row() -> None:
    store = store_of(*EXAMPLES)
    assert [str(store.ref(index)) for index in range(3)] == ["file0:10", "file1:11", "file0:12"]
    assert store.ref(2) == RowRef("d", "file0", 12, 2)


def test_select_keeps_order_repeats_and_rows() -> None:
    store = store_of(*EXAMPLES).select([2, 0, 2])
    assert [store.example(index)[0].tolist() for index in range(3)] == [[5, 6], [1, 2, 3], [5, 6]]
    assert [store.ref(index).line for index in range(3)] == [12, 10, 12]
    assert len(store.select([])) == 0


def test_a_branch_of_every_example_keeps_its_prefix_and_its_numbers() -> None:
    builder = StoreBuilder()
    builder.add((1, 2, 3, 4, 5), (0, 0, 1, 2, 3), RowRef("d", "f", 1, 0), (2, 1, 2))
    builder.add((6, 7, 8, 9), (0.5, 1, 1, 1), RowRef("d", "f", 2, 1), (0, 1, 3))
    numbers = {"per_sequence": {"s": np.arange(4.0)}, "per_token": {"t": np.arange(9.0)}}
    store = builder.build().with_values(per_example={"e": np.array([7.0, 8.0])}, **numbers)
    first, second = store.branch(0), store.branch(1)
    assert [first.example(i)[0].tolist() for i in range(2)] == [[1, 2, 3], [6]]
    assert [second.example(i)[0].tolist() for i in range(2)] == [[1, 2, 4, 5], [7, 8, 9]]
    assert [second.piece_lengths(i) for i in range(2)] == [(2, 2), (0, 3)]
    assert second.example(0)[1].tolist() == [0, 0, 2, 3]
    assert (first.per_sequence["s"].tolist(), second.per_sequence["s"].tolist()) == ([0, 2], [1, 3])
    assert second.per_token["t"].tolist() == [0, 1, 3, 4, 6, 7, 8]
    assert second.per_example["e"].tolist() == [7, 8]
    assert (second.ref(1), len(store.select([]).branch(1))) == (store.ref(1), 0)


def test_the_hash_is_of_tokens_weights_and_borders() -> None:
    original = store_of(*EXAMPLES).content_hash()
    assert store_of(*EXAMPLES).content_hash() == original
    others = (
        store_of(EXAMPLES[1], EXAMPLES[0], EXAMPLES[2]),
        store_of(([1, 2, 9], [0.0, 1.0, 1.0]), *EXAMPLES[1:]),
        store_of(([1, 2, 3], [1.0, 1.0, 1.0]), *EXAMPLES[1:]),
        store_of(([1, 2, 3, 4], [0.0, 1.0, 1.0, 0.5]), EXAMPLES[2]),
    )
    assert len({original, *(other.content_hash() for other in others)}) == 5


def test_a_token_costs_eight_bytes() -> None:
    builder = StoreBuilder()
    for _ in range(1000):
        builder.add(range(1000), [1.0] * 1000, RowRef("d", "f", 1, 0))
    store = builder.build()
    size_bytes = store.ids.nbytes + store.weights.nbytes
    assert size_bytes == 8 * store.num_tokens
    assert sys.getsizeof(builder._ids) < 1.2 * store.ids.nbytes


def test_an_empty_store_is_a_store() -> None:
    store = StoreBuilder().build()
    assert (len(store), store.num_tokens, store.lengths.tolist()) == (0, 0, [])
