"""llama.cpp as a forward pass: a GGUF file in, tokens in, logits out, through the C interface of `llama.h`.

Everything above the logits (stopping, sampling, seeds, log-probabilities) stays ours, so an answer means the same from
every engine, and an export's proof can compare whole distributions. The library is the one inside the `xllamacpp`
wheel (prebuilt, no compiler needed), which carries the functions of llama.h beside its own HTTP server.

Two facts about C structures are relied on, and checked when the library is loaded: the first four fields of
`llama_context_params` are n_ctx, n_batch, n_ubatch, n_seq_max, and `llama_batch` has seven fields. The parameter
structures have more fields, which differ between versions; they are passed through unread in a larger buffer, as
the C calling conventions of all 64-bit systems allow for structures above 16 bytes.
Reference: https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tunesmith.errors import ModelError

EXTRA_HINT = 'pip install "tunesmith[gguf]"'
BATCH_TOKENS = 512
"""Tokens of one decode call; a longer prompt goes in several."""

_PARAMS_WORDS = 256
_CONTEXT_DEFAULTS = (512, 2048, 512, 1)
"""What llama.cpp has had in the first four fields of its default context parameters since they exist."""


class _Params(ctypes.Structure):
    """`llama_model_params` or `llama_context_params`, and room behind it."""

    _fields_ = (("words", ctypes.c_uint32 * _PARAMS_WORDS),)


class _Batch(ctypes.Structure):
    """`llama_batch`: tokens with position, sequence and whether their logits are wanted."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_P, _I, _U, _S, _B = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_bool
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_Log, _P)),
    "llama_model_default_params": (_Params, ()),
    "llama_context_default_params": (_Params, ()),
    "llama_model_load_from_file": (_P, (_S, _Params)),
    "llama_model_free": (None, (_P,)),
    "llama_model_get_vocab": (_P, (_P,)),
    "llama_model_n_ctx_train": (_I, (_P,)),
    "llama_vocab_n_tokens": (_I, (_P,)),
    "llama_vocab_get_add_bos": (_B, (_P,)),
    "llama_init_from_model": (_P, (_P, _Params)),
    "llama_free": (None, (_P,)),
    "llama_n_ctx_seq": (_U, (_P,)),
    "llama_n_batch": (_U, (_P,)),
    "llama_n_seq_max": (_U, (_P,)),
    "llama_set_n_threads": (None, (_P, _I, _I)),
    "llama_get_memory": (_P, (_P,)),
    "llama_memory_seq_rm": (_B, (_P, _I, _I, _I)),
    "llama_batch_init": (_Batch, (_I, _I, _I)),
    "llama_batch_free": (None, (_Batch,)),
    "llama_decode": (_I, (_P, _Batch)),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (_P, _I)),
    "llama_tokenize": (_I, (_P, _S, _I, ctypes.POINTER(_I), _I, _B, _B)),
    "llama_adapter_lora_init": (_P, (_P, _S)),
    "llama_set_adapters_lora": (_I, (_P, ctypes.POINTER(_P), ctypes.c_size_t, ctypes.POINTER(ctypes.c_float))),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        (ctypes.c_int, _P, _P, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _P),
    ),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """llama.cpp with typed functions. Raises: ModelError when it is not installed or of an unknown form."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise ModelError("llama.cpp is not installed (package xllamacpp)", fix=EXTRA_HINT)
    from xllamacpp import xllamacpp as extension

    loaded = ctypes.CDLL(str(extension.__file__))
    missing = [name for name in _FUNCTIONS if not hasattr(loaded, name)]
    if missing:
        raise _unknown_form(f"it has no {missing[0]}")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    found = tuple(loaded.llama_context_default_params().words[:4])
    if found != _CONTEXT_DEFAULTS:
        raise _unknown_form(f"its context parameters begin with {found}, not {_CONTEXT_DEFAULTS}")
    loaded.llama_log_set(_quiet, None)
    loaded.llama_backend_init()
    return loaded


def _unknown_form(why: str) -> ModelError:
    return ModelError("this version of xllamacpp cannot be used", why=why, fix=f"install the tested one: {EXTRA_HINT}")


_LAST_ERRORS: list[str] = []


@_Log
def _quiet(level: int, text: bytes, _: int | None) -> None:
    """Keep what llama.cpp says about errors (level 4) for the message; the rest is not shown."""
    if level == 4:
        _LAST_ERRORS[:] = [*_LAST_ERRORS[-3:], text.decode("utf-8", "replace").strip()]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that continue one sequence: `ids` at positions `start` and after, in slot `slot`.

    `all_logits`: a row of logits for each token, not only for the last one.
    """

    slot: int
    start: int
    ids: Sequence[int]
    all_logits: bool = False


class NativeModel:
    """A GGUF file in memory with a key/value cache of `num_slots` sequences. Not thread-safe; one owner at a time.

    Args:
        max_length: tokens of one sequence; 0: what the model was trained with.

    Raises: ModelError when llama.cpp cannot load the file, or has no memory for the cache.
    """

    def __init__(self, gguf_file: Path, *, num_slots: int = 1, max_length: int = 0, num_threads: int = 1) -> None:
        self._lib = library()
        self._model: int | None = None
        self._context: int | None = None
        if not gguf_file.is_file():
            raise ModelError(f"no such GGUF file: {gguf_file}", fix="Give the path of a .gguf file.")
        _LAST_ERRORS.clear()
        self._model = self._lib.llama_model_load_from_file(
            str(gguf_file).encode(), self._lib.llama_model_default_params()
        )
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {gguf_file}", why=_said() or "It gives no reason.")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.num_tokens = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self.adds_bos = bool(self._lib.llama_vocab_get_add_bos(self._vocab))
        self.trained_length = int(self._lib.llama_model_n_ctx_train(self._model))
        self._start(gguf_file, num_slots, min(max_length or self.trained_length, self.trained_length), num_threads)
        self._adapters: dict[str, int] = {}

    def _start(self, gguf_file: Path, num_slots: int, max_length: int, num_threads: int) -> None:
        params = self._lib.llama_context_default_params()
        self._batch_tokens = max(BATCH_TOKENS, num_slots)
        params.words[:4] = (max_length * num_slots, self._batch_tokens, self._batch_tokens, num_slots)
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelError(
                f"llama.cpp has no room to answer with {gguf_file}",
                why=_said() or f"{num_slots} sequences of {max_length} tokens were asked for.",
                fix="Set a smaller llamacpp_maxlen.",
            )
        if self._lib.llama_n_seq_max(self._context) != num_slots or self._lib.llama_n_batch(self._context) < num_slots:
            raise _unknown_form("it reads its context parameters in another order")
        self._lib.llama_set_n_threads(self._context, num_threads, num_threads)
        self.context_length = min(int(self._lib.llama_n_ctx_seq(self._context)), max_length)
        self._memory: int = self._lib.llama_get_memory(self._context)
        self._batch: _Batch = self._lib.llama_batch_init(self._batch_tokens, 0, 1)

    def decode(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """Read `pieces` into the cache; returns logits (rows, V), float32, for each: one row, or one per token.

        Several sequences are computed together. Raises: ModelError when llama.cpp fails.
        """
        entries = [
            (owner, piece.slot, piece.start + offset, token, piece.all_logits or offset == len(piece.ids) - 1)
            for owner, piece in enumerate(pieces)
            for offset, token in enumerate(piece.ids)
        ]
        rows: list[list[np.ndarray]] = [[] for _ in pieces]
        for first in range(0, len(entries), self._batch_tokens):
            part = entries[first : first + self._batch_tokens]
            self._decode_part([entry[1:] for entry in part])
            for index, (owner, *_, wanted) in enumerate(part):
                if wanted:
                    rows[owner].append(self._logits(index))
        return [np.stack(found) for found in rows]

    def _decode_part(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for index, (slot, position, token, wanted) in enumerate(entries):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.logits[index] = 1, wanted
            batch.seq_id[index][0] = slot
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise ModelError(f"llama.cpp could not compute (code {code})", why=_said() or "It gives no reason.")

    def _logits(self, index: int) -> np.ndarray:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.num_tokens,)).copy()

    def forget(self, slot: int, start: int = 0) -> bool:
        """Drop what sequence `slot` holds from position `start` on; False where the memory cannot be cut there."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, slot, start, -1))

    def tokenize(self, text: str, *, parse_special: bool = True) -> tuple[int, ...]:
        """The ids that llama.cpp gives a text, nothing added; special tokens spelled out in it are tokens."""
        data = text.encode()
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), buffer, room, False, parse_special)
        assert count >= 0, "a text has no more tokens than bytes"
        return tuple(buffer[:count])

    def use_adapter(self, path: Path | None) -> None:
        """Answer with this LoRA adapter (GGUF) from here on; None: without. Raises: ModelError: it does not fit."""
        if path is None:
            self._lib.llama_set_adapters_lora(self._context, None, 0, None)
            return
        if str(path) not in self._adapters:
            _LAST_ERRORS.clear()
            adapter = self._lib.llama_adapter_lora_init(self._model, str(path).encode())
            if not adapter:
                raise ModelError(f"llama.cpp cannot load the adapter {path}", why=_said() or "It gives no reason.")
            self._adapters[str(path)] = adapter
        handles, scales = (ctypes.c_void_p * 1)(self._adapters[str(path)]), (ctypes.c_float * 1)(1.0)
        self._lib.llama_set_adapters_lora(self._context, handles, 1, scales)

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._context:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)  # its adapters go with it
        self._model = self._context = None


def _said() -> str:
    return " ".join(_LAST_ERRORS)
