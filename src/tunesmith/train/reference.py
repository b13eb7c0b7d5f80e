"""The policy that training is held to: what DPO, KTO, PPO, GRPO and ASFT compare the trained model with.

Three kinds, and the user is told which one it is:
- the weights that the run started from (`ref_policy: start`): the base model, or the fine-tuned one when an adapter
  or a full model is trained further. No second model is built: the start values of the trained tensors are kept and
  stand in for the current ones while the reference is asked.
- the model without any adapter (`ref_policy: base`), even where training goes on with an adapter;
- another model (`ref_model`), which must have the same vocabulary.

A reference does not move, so log-probabilities of given answers are computed once, before the first step, and kept in
a cache under a hash of everything that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.data.collate import collate
from tunesmith.data.plan import plan_evaluation
from tunesmith.data.store import ExampleStore
from tunesmith.errors import ModelError
from tunesmith.loss.scores import Want
from tunesmith.model.adapters import ADAPTER_WEIGHTS, attach_adapters, require_adapter
from tunesmith.model.evaluating import evaluating
from tunesmith.model.fingerprint import file_sha256, weights_fingerprint
from tunesmith.model.load import load_model, load_tokenizer, model_folder
from tunesmith.model.quantize import quantization_words
from tunesmith.model.quantized_layers import is_quantized
from tunesmith.model.scorer import Scorer
from tunesmith.train.stage import Setup

TOLERANCE_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""By how much a cached log-probability of a whole answer may differ from the one computed now."""


@dataclass(frozen=True)
class Reference:
    """A frozen policy.

    Attributes:
        scorer: the model to ask, inside `active` only.
        label: which policy it is, for the user.
        fingerprint: named hashes of its weights.
    """

    scorer: Scorer
    label: str
    fingerprint: dict[str, str]
    _stand_in: Callable[[], AbstractContextManager[Any]]

    @contextmanager
    def active(self) -> Iterator[Scorer]:
        """The scorer as the reference: in evaluation mode, without gradients, with the reference's weights."""
        with evaluating(self.scorer), self._stand_in():
            yield self.scorer


def make_reference(setup: Setup) -> Reference:
    """The reference that the settings ask for. Call it while the model has the weights that the run started from.

    Raises:
        ModelError: `ref_model` cannot be loaded, or has another vocabulary.
    """
    config, model = setup.config, setup.scorer.model
    own = {key: value for key, value in setup.fingerprint.items() if key.startswith(_OF_WEIGHTS)}
    if config.ref_model:
        bits = config.ref_model_quantization_bit
        return frozen_model(setup, "ref_model", config.ref_model, config.ref_model_adapters, bits)
    is_adapted = hasattr(model, "disable_adapter")
    continued = is_adapted and bool(config.adapter_name_or_path) and not config.create_new_adapter
    if config.ref_policy == "base" and is_adapted:
        return Reference(setup.scorer, "the model without its adapter", {**own, "kind": "base"}, model.disable_adapter)
    start = {id(p): (p, p.detach().clone()) for p in model.parameters() if p.requires_grad}

    @contextmanager
    def stand_in() -> Iterator[None]:
        now = [(p, p.data) for p, _ in start.values()]
        try:
            for p, kept in start.values():
                p.data = kept
            yield
        finally:
            for p, data in now:
                p.data = data

    label = "the adapter that training goes on from" if continued else "the model as the run starts from it"
    return Reference(setup.scorer, label, {**own, "kind": "start"}, stand_in)


_OF_WEIGHTS = ("base weights", "adapter", "method", "tokenizer", "compute")


def frozen_model(
    setup: Setup, key: str, name: str, adapters: Sequence[str], quantization_bit: int | None = None
) -> Reference:
    """Another model beside the trained one, the one that the setting `key` names.

    Args:
        quantization_bit: its own bits, not those of the trained model; None loads it as it is stored.

    Raises:
        ModelError: it cannot be loaded, or has another vocabulary.
    """
    scorer, device = setup.scorer, setup.runtime.device
    source = replace(
        setup.config,
        model_name_or_path=name,
        adapter_name_or_path=tuple(adapters),
        quantization_bit=quantization_bit,
        train_from_scratch=False,
        add_tokens=(),
        add_special_tokens=(),
        new_special_tokens_config=None,
    )
    for adapter in adapters:
        require_adapter(Path(adapter))
    dtype = scorer.compute_dtype
    try:
        require_same_vocabulary(setup, load_tokenizer(source), key, name)
        model = attach_adapters(load_model(source, dtype=dtype, device=device), adapters)
    except ModelError as err:  # which speaks of the model as if it were the one that is trained
        err.where = err.where or f"{key}: {name}"
        err.fix = err.fix.replace("model_name_or_path", key)
        raise
    model.requires_grad_(False)
    other = Scorer(model if is_quantized(model) else model.to(device), dtype, scorer.device_type)
    hashes = {"reference": weights_fingerprint(model_folder(source)), "bits": quantization_words(source) or "as stored"}
    for adapter in adapters:
        hashes[f"reference adapter {adapter}"] = file_sha256(Path(adapter) / ADAPTER_WEIGHTS)

    @contextmanager
    def nothing() -> Iterator[None]:
        yield

    return Reference(other, f"{key}: {name}", {**hashes, "compute": str(dtype)}, nothing)


def require_same_vocabulary(setup: Setup, other: Any, key: str, name: str) -> None:
    """Raises: ModelError when the tokenizer `other`, of the model that `key` names, has not the policy's tokens."""
    own = setup.renderer.tokenizer
    if own.get_vocab() == other.get_vocab():
        return
    mine, theirs = own.get_vocab(), other.get_vocab()
    differing = sorted(token for token in {*mine, *theirs} if mine.get(token) != theirs.get(token))
    raise ModelError(
        f"`{key}` has another vocabulary than the trained model: {len(differing):,} tokens differ",
        where=f"{key}: {name}",
        why=f"its numbers would belong to other tokens; for instance {differing[0]!r} is "
        f"{mine.get(differing[0], 'missing')} here and {theirs.get(differing[0], 'missing')} there",
        fix="use a model of the same family, with the same tokenizer",
    )


def reference_logp(reference: Reference, store: ExampleStore, setup: Setup) -> npt.NDArray[np.float64]:
    """log-probability of every sequence under the reference, float64[S]; from the cache where it is known."""
    file = _cache_file(reference, store)
    known = _read(file, int(store.first_sequence[-1]))
    if known is not None:
        if _still_true(reference, store, setup, known):
            return known
        setup.say("note: the cached log-probabilities of the reference are not those of this model: computed anew")
    logp_S = _compute(reference, store, setup, range(len(store)))
    if setup.runtime.is_main:
        _write(file, logp_S)
    return logp_S


def _compute(
    reference: Reference, store: ExampleStore, setup: Setup, indices: range | list[int]
) -> npt.NDArray[np.float64]:
    """Zero for the sequences of examples that are not asked for; all ranks share the work."""
    chosen = list(indices)
    lengths = store.lengths[chosen].tolist()
    plan = plan_evaluation(lengths, setup.row_tokens, setup.runtime.world_size)
    logp_S = np.zeros(int(store.first_sequence[-1]))
    with reference.active() as scorer:
        for micro in plan.micro_batches[setup.runtime.rank]:
            members = [chosen[place] for place in micro]
            scores = scorer(collate(store, members).to(setup.runtime.device), Want(correct=False))
            places = [s for i in members for s in range(store.first_sequence[i], store.first_sequence[i + 1])]
            logp_S[places] = scores.logp_S.double().cpu().numpy()
    return np.asarray(setup.runtime.sum(logp_S.tolist()))


def _still_true(reference: Reference, store: ExampleStore, setup: Setup, known: npt.NDArray[np.float64]) -> bool:
    """Compare one example in a hundred, at least two, with what the reference says now."""
    every = max(1, min(100, len(store) // 2))
    probes = list(range(0, len(store), every))
    now = _compute(reference, store, setup, probes)
    places = [s for i in probes for s in range(store.first_sequence[i], store.first_sequence[i + 1])]
    tolerance = TOLERANCE_NATS[reference.scorer.compute_dtype]
    return bool(np.abs(now[places] - known[places]).max(initial=0.0) <= tolerance)


def cache_folder() -> Path:
    """Where computed things are kept between runs: `TUNESMITH_CACHE`, or ~/.cache/tunesmith."""
    return Path(os.environ.get("TUNESMITH_CACHE") or "~/.cache/tunesmith").expanduser()


def _cache_file(reference: Reference, store: ExampleStore) -> Path:
    parts = {**reference.fingerprint, "rows": store.content_hash()}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "reference" / f"{digest[:32]}.safetensors"


def _read(file: Path, num_sequences: int) -> npt.NDArray[np.float64] | None:
    try:
        logp_S = load_file(file)["logp"].numpy()
    except (OSError, SafetensorError, KeyError):
        return None  # not there, or cut short: it is computed again
    return logp_S if len(logp_S) == num_sequences else None


def _write(file: Path, logp_S: npt.NDArray[np.float64]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logp": torch.from_numpy(logp_S)}, part)
        os.replace(part, file)
    except (OSError, SafetensorError):
        part.unlink(missing_ok=True)  # a cache that cannot be written costs time, not the run
