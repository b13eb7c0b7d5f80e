"""The engine on SGLang: its server as a child process, talked to by token ids over its own /generate endpoint.

SGLang 0.5 or newer, in this Python environment. An event repeats all tokens so far (or only the new ones, as the server
is set); the number of tokens that it names tells which are new. Seeds hold where the server runs with
`enable_deterministic_inference` (`sglang_config`), which costs speed; without it that is said. The server also stops at
the end tokens of the model's own settings: switching those off would switch off the given ones too.
https://docs.sglang.io/basic_usage/native_api.html
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.infer.engine import FinishReason, SamplingParams
from tunesmith.infer.locate import Located
from tunesmith.infer.remote import Report, Token
from tunesmith.infer.server_process import Address
from tunesmith.infer.serving import Opened, Plan, Server, as_flags, extra_settings, open_server
from tunesmith.render import Renderer

_GENERATE = "/generate"
_GRAMMARS = {"json_schema": "json_schema", "regex": "regex", "lark": "ebnf"}
_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
_WHOLE_VOCABULARY = -1
_DETERMINISTIC = "enable_deterministic_inference"
# log-probabilities before temperature; the name has changed between versions
ENVIRONMENT = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1", "RETURN_ORIGINAL_LOGPROB": "1"}


class SglangDialect:
    """SGLang's own endpoint.

    Args:
        base_name: the name that stands for the base without an adapter.
    """

    name = "SGLang"

    def __init__(self, base_name: str) -> None:
        self._base_name = base_name

    def request(
        self, prompt_ids: Sequence[int], params: SamplingParams, num_new: int, model: str
    ) -> tuple[str, dict[str, Any]]:
        """See `Dialect.request`. A Lark grammar needs the server's llguidance backend, which is asked for at start."""
        sampling: dict[str, Any] = {
            "max_new_tokens": num_new,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": 1.0 if params.greedy else params.top_p,
            "top_k": _WHOLE_VOCABULARY if params.greedy or not params.top_k else params.top_k,
            "min_p": 0.0,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stop_token_ids": list(params.stop_ids),
            "stop": list(params.stop),
            "no_stop_trim": True,
            "skip_special_tokens": False,
        }
        if params.seed is not None:
            sampling["sampling_seed"] = params.seed % (1 << 31)
        if params.logit_bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
        if params.grammar is not None:
            sampling[_GRAMMARS[params.grammar.kind]] = params.grammar.text
        body = {**self._addressed(model), "input_ids": list(prompt_ids), "sampling_params": sampling, "stream": True}
        if params.num_logprobs is not None:
            body |= {"return_logprob": True, "top_logprobs_num": params.num_logprobs}
        return _GENERATE, body

    def reports(self, events: Iterator[dict[str, Any]]) -> Iterator[Report]:
        """See `Dialect.reports`."""
        num_seen = 0
        for event in events:
            meta = event["meta_info"]
            num_new = meta["completion_tokens"] - num_seen
            num_seen += num_new
            tokens = _newest(event, num_new)
            reason = _reason(meta.get("finish_reason"))
            if tokens or reason is not None:
                yield Report(tokens, reason)

    def score_request(self, ids: Sequence[int], num_prompt_tokens: int, model: str) -> tuple[str, dict[str, Any]]:
        """See `Dialect.score_request`."""
        return _GENERATE, {
            **self._addressed(model),
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }

    def scores(self, answer: Any, ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """See `Dialect.scores`."""
        rows = answer["meta_info"]["input_token_logprobs"][num_prompt_tokens:]
        if [row[1] for row in rows] != list(ids[num_prompt_tokens:]):
            raise ValueError("SGLang scored other tokens than it was sent")
        return [float(row[0]) for row in rows]

    def _addressed(self, model: str) -> dict[str, Any]:
        return {} if model == self._base_name else {"lora_path": model}


def _newest(event: Mapping[str, Any], num_new: int) -> tuple[Token, ...]:
    """The last `num_new` tokens of an event."""
    if num_new == 0:
        return ()
    ids = event["output_ids"][-num_new:]
    meta = event["meta_info"]
    if "output_token_logprobs" not in meta:
        return tuple(Token(token_id) for token_id in ids)
    logprobs = meta["output_token_logprobs"][-num_new:]
    tops = (meta.get("output_top_logprobs") or [None] * num_new)[-num_new:]
    rows = zip(ids, logprobs, tops, strict=True)
    return tuple(Token(token_id, row[0], tuple((top[1], top[0]) for top in best or ())) for token_id, row, best in rows)


def _reason(told: Mapping[str, Any] | None) -> FinishReason | None:
    if told is None:
        return None
    if told["type"] not in _REASONS:
        raise ValueError(f"SGLang ended an answer: {told.get('message') or told['type']}")
    return _REASONS[told["type"]]


def sglang_command(plan: Plan, config: Config, address: Address, num_devices: int) -> list[str]:
    """The command line that serves a plan. `sglang_config` is added last, so it may change anything."""
    settings: dict[str, Any] = {
        "model_path": plan.base,
        "served_model_name": plan.base_name,
        "host": "127.0.0.1",
        "port": int(address.url.rsplit(":", 1)[1]),
        "context_length": config.sglang_maxlen,
        "mem_fraction_static": config.sglang_mem_fraction,
        "tp_size": max(num_devices, 1) if config.sglang_tp_size == -1 else config.sglang_tp_size,
        "dtype": config.infer_dtype,
        "sampling_defaults": "openai",
        "grammar_backend": "llguidance",
    }
    if plan.adapters:
        settings |= {"enable_lora": True, "lora_backend": config.sglang_lora_backend}
    flags = as_flags({**settings, **plan.extra})
    adapters = [f"{name}={folder}" for name, folder in plan.adapters.items()]
    paths = ["--lora-paths", *adapters] if adapters else []
    return [sys.executable, "-m", "sglang.launch_server", *flags, *paths]


def _command_with_key(plan: Plan, config: Config, address: Address, num_devices: int) -> list[str]:
    """The command line with its key in a file that only this user can read: a command line is seen by everybody."""
    handle, name = tempfile.mkstemp(prefix="tunesmith-sglang-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(f"api-key: {address.key}\n")
    atexit.register(Path(name).unlink, missing_ok=True)
    return [*sglang_command(plan, config, address, num_devices), "--config", name]


def open_sglang(config: Config, located: Located, renderer: Renderer) -> Opened:
    """SGLang with what was located, started here or (`infer_url`) already running.

    Raises: ModelError when SGLang is missing, does not start, or cannot serve this.
    """
    server = Server(
        dialect=SglangDialect,
        program="sglang",
        install='pip install "tunesmith[sglang]"',
        command=_command_with_key,
        environment=lambda address: ENVIRONMENT,
        max_length=config.sglang_maxlen,
        extra=config.sglang_config,
        extra_key="sglang_config",
    )
    engine, notes = open_server(server, config, located, renderer)
    if config.infer_url is None and not extra_settings(server).get(_DETERMINISTIC):
        notes.append(
            "SGLang does not honour seeds by itself: answers of two runs will differ unless do_sample is false; "
            f'to have them honoured, at some cost of speed, set sglang_config: {{"{_DETERMINISTIC}": true}}'
        )
    return engine, notes
