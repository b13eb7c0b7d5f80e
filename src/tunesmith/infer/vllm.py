"""The engine on vLLM: `vllm serve` as a child process, talked to by token ids over its completions endpoint.

vLLM 0.12 or newer, from an installation whose command `vllm` is on the PATH (it may be another environment than this
one). Everything that decides about an answer is said in the request; the model's own generation settings are switched
off (`--generation-config vllm`), and generation ends at the renderer's stop tokens alone (`ignore_eos`). Seeds hold per
request. Grammars go to vLLM's guidance backend, whose language is the one that `Grammar` is written in.
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.config import Config
from tunesmith.infer.engine import FinishReason, Grammar, SamplingParams
from tunesmith.infer.locate import Located
from tunesmith.infer.remote import Report, Token
from tunesmith.infer.server_process import Address
from tunesmith.infer.serving import Opened, Plan, Server, as_flags, open_server
from tunesmith.render import Renderer

_COMPLETIONS = "/v1/completions"
_TOKEN = "token_id:"
_GRAMMARS = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmDialect:
    """vLLM's completions endpoint."""

    name = "vLLM"

    def request(
        self, prompt_ids: Sequence[int], params: SamplingParams, num_new: int, model: str
    ) -> tuple[str, dict[str, Any]]:
        """See `Dialect.request`."""
        body: dict[str, Any] = {
            "model": model,
            "prompt": list(prompt_ids),
            "max_tokens": num_new,
            "stream": True,
            "return_token_ids": True,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": 1.0 if params.greedy else params.top_p,
            "top_k": 0 if params.greedy else params.top_k,
            "min_p": 0.0,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stop_token_ids": list(params.stop_ids),
            "ignore_eos": True,
            "stop": list(params.stop),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
        }
        if params.seed is not None:
            body["seed"] = params.seed % (1 << 63)
        if params.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
        if params.num_logprobs is not None:
            body |= {"logprobs": params.num_logprobs, "return_tokens_as_token_ids": True}
        if params.grammar is not None:
            body["structured_outputs"] = _structured(params.grammar)
        return _COMPLETIONS, body

    def reports(self, events: Iterator[dict[str, Any]]) -> Iterator[Report]:
        """See `Dialect.reports`. An event carries the tokens that are new with it, often several."""
        for event in events:
            for choice in event.get("choices", ()):
                yield Report(_tokens(choice), _reason(choice.get("finish_reason")))

    def score_request(self, ids: Sequence[int], num_prompt_tokens: int, model: str) -> tuple[str, dict[str, Any]]:
        """See `Dialect.score_request`."""
        return _COMPLETIONS, {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 1,
        }

    def scores(self, answer: Any, ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """See `Dialect.scores`."""
        by_place = answer["choices"][0]["prompt_logprobs"]
        places = range(num_prompt_tokens, len(ids))
        return [float(by_place[place][str(ids[place])]["logprob"]) for place in places]


def _structured(grammar: Grammar) -> dict[str, Any]:
    return {_GRAMMARS[grammar.kind]: json.loads(grammar.text) if grammar.kind == "json_schema" else grammar.text}


def _reason(told: str | None) -> FinishReason | None:
    if told is None:
        return None
    if told not in _REASONS:
        raise ValueError(f"vLLM ended an answer with '{told}'")
    return _REASONS[told]


def _tokens(choice: Mapping[str, Any]) -> tuple[Token, ...]:
    ids = choice["token_ids"] or ()
    logprobs = choice.get("logprobs")
    if not logprobs:
        return tuple(Token(token_id) for token_id in ids)
    rows = zip(ids, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return tuple(Token(token_id, logprob, _ordered(top or {})) for token_id, logprob, top in rows)


def _ordered(top: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """(token id, log-probability) best first, of what `return_tokens_as_token_ids` writes as "token_id:7"."""
    found = ((int(name.removeprefix(_TOKEN)), logprob) for name, logprob in top.items())
    return tuple(sorted(found, key=lambda pair: -pair[1]))


def vllm_command(plan: Plan, config: Config, address: Address, num_devices: int) -> list[str]:
    """The command line that serves a plan. `vllm_config` is added last, so it may change anything."""
    settings: dict[str, Any] = {
        "served_model_name": plan.base_name,
        "host": "127.0.0.1",
        "port": int(address.url.rsplit(":", 1)[1]),
        "max_model_len": config.vllm_maxlen,
        "gpu_memory_utilization": config.vllm_gpu_util,
        "tensor_parallel_size": max(num_devices, 1),
        "dtype": config.infer_dtype,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
        "disable_uvicorn_access_log": True,
    }
    if config.vllm_enforce_eager:
        settings["enforce_eager"] = True
    if plan.adapters:
        settings |= {"enable_lora": True, "max_lora_rank": config.vllm_max_lora_rank, "max_loras": len(plan.adapters)}
    flags = as_flags({**settings, **plan.extra})
    modules = [f"{name}={folder}" for name, folder in plan.adapters.items()]
    return ["vllm", "serve", plan.base, *flags, *(["--lora-modules", *modules] if modules else [])]


def open_vllm(config: Config, located: Located, renderer: Renderer) -> Opened:
    """vLLM with what was located, started here or (`infer_url`) already running.

    Raises: ModelError when vLLM is missing, does not start, or cannot serve this.
    """
    server = Server(
        dialect=lambda base_name: VllmDialect(),
        program="vllm",
        install='pip install "tunesmith[vllm]", or put the command `vllm` of another environment on the PATH',
        command=vllm_command,
        environment=lambda address: {**ENVIRONMENT, "VLLM_API_KEY": address.key},
        max_length=config.vllm_maxlen,
        extra=config.vllm_config,
        extra_key="vllm_config",
    )
    return open_server(server, config, located, renderer)
