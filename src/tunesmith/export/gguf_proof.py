"""The proof of GGUF files, run as `python -m tunesmith.export.gguf_proof TASK.json FOLDER RESULT.json`.

The reference is what the user has tried: the base with its adapters, computed by transformers. It answers 20 prompts
greedily; then llama.cpp loads each file and must read the prompts as the same tokens, and its distribution over the
next token is compared with the reference's at every position of the answers. Rounding weights to a few bits is a loss
that was asked for, so it is stated; what fails is a difference that the type does not explain, or a file that is
nearer to the base than to the tuned model: what was learned is lost then.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.config import Config
from tunesmith.errors import UserError
from tunesmith.infer.engine import SamplingParams
from tunesmith.infer.hf import HFEngine
from tunesmith.infer.llamacpp_native import NativeModel, Piece

MAX_NEW_TOKENS = 24

KL_LIMIT = {
    "f32": 2e-5,
    "f16": 5e-4,
    "bf16": 1e-2,
    "q8_0": 5e-2,
    "q6_k": 0.1,
    "q5_k_m": 0.3,
    "q4_k_m": 1.0,
}
"""Mean divergence (nats per token) above which a type's rounding is no explanation; several times what was measured
on a 135M model, where rounding shows most (docs/export.md). f32 is not 0: llama.cpp keeps its cache in 16 bits. Where
the merged weights were rounded more coarsely before (`infer_dtype`), the limit is that of their dtype."""

WIDE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""The type that holds the weights of a dtype without loss."""


@dataclass(frozen=True)
class Reference:
    """The tuned model, or the base, over the prompts and the tuned model's answers.

    Attributes:
        logprobs: for each prompt (N, V): log-probabilities of the token at each of the N positions of the answer.
    """

    prompt_ids: tuple[tuple[int, ...], ...]
    answer_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[torch.Tensor, ...]


def main(argv: list[str]) -> int:
    """Prove the files of a task and write the result; 0 when all hold, 1 when not, 2 when one cannot be loaded."""
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    try:
        measured = prove_files(task, Path(argv[1]))
    except UserError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    Path(argv[2]).write_text(json.dumps(measured, ensure_ascii=False), encoding="utf-8")
    return 1 if measured["problems"] else 0


def prove_files(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What was measured on each file of the task, and `problems`: a sentence for each check that failed."""
    tuned, base = _references(task)
    problems: list[str] = []
    files = {}
    for name in task["files"]:
        checked = _check_file(folder / name, task, tuned, base)
        problems += [f"{name}: {problem}" for problem in checked.pop("problems")]
        files[name] = checked
    return {
        "num_prompts": len(task["prompts"]),
        "num_texts": len(task["texts"]),
        "num_answer_tokens": sum(map(len, tuned.answer_ids)),
        "loss_of_tuned": _loss(tuned, tuned.logprobs),
        "adapter_effect_kl": base and float(_divergence(tuned.logprobs, base.logprobs).mean()),
        "files": files,
        "problems": problems,
    }


def _references(task: dict[str, Any]) -> tuple[Reference, Reference | None]:
    """The tuned model over its own greedy answers, and the base over the same; None without adapters."""
    from tunesmith.model.load import load_for_inference, load_tokenizer

    given = task["config"].items()
    config = Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in given})
    config = replace(config, infer_dtype=task["compute_dtype"])
    device = "cuda" if config.export_device == "auto" and torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(replace(config, adapter_name_or_path=tuple(task["adapters"])))
    prompts = [tuple(prompt["ids"]) for prompt in task["prompts"]]
    model = load_for_inference(config, task["adapters"], device)
    engine = HFEngine(model, tokenizer)
    greedy = SamplingParams(max_new_tokens=MAX_NEW_TOKENS, do_sample=False, stop_ids=tuple(task["stop_ids"]))
    answers = [engine.generate(prompt, greedy).token_ids for prompt in prompts]
    tuned = _reference(model, prompts, answers)
    base = None
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            base = _reference(model, prompts, answers)
    return tuned, base


@torch.inference_mode()
def _reference(model: Any, prompts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]]) -> Reference:
    """A transformers model over prompts and answers, one pass each."""
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits_TV = model(input_ids=torch.tensor([prompt + answer], device=model.device), use_cache=False).logits[0]
        rows.append(logits_TV[len(prompt) - 1 : -1].float().cpu().log_softmax(-1))
    return Reference(tuple(prompts), tuple(answers), tuple(rows))


def _check_file(file: Path, task: dict[str, Any], tuned: Reference, base: Reference | None) -> dict[str, Any]:
    """The measurements on one file, and its `problems`."""
    from tunesmith.model.fingerprint import file_sha256

    longest = max(len(ids) for ids in tuned.prompt_ids) + MAX_NEW_TOKENS + 8
    model = NativeModel(file, max_length=longest, num_threads=torch.get_num_threads())
    try:
        if "adapter" in task:
            model.use_adapter(file.parent / task["adapter"])
        measured = _check_tokens(model, task)
        answers, seconds = _greedy(model, tuned.prompt_ids, tuple(task["stop_ids"]))
        logprobs = tuple(_along(model, tuned))
    finally:
        model.close()
    divergence_N = _divergence(tuned.logprobs, logprobs)
    measured |= {
        "sha256": file_sha256(file),
        "size_bytes": file.stat().st_size,
        "num_answers_equal": sum(a == b for a, b in zip(answers, tuned.answer_ids, strict=True)),
        "greedy_agreement": _agreement(tuned, logprobs),
        "kl_mean": float(divergence_N.mean()),
        "kl_largest": float(divergence_N.max()),
        "kl_to_base": base and float(_divergence(base.logprobs, logprobs).mean()),
        "largest_logprob_difference": _largest_difference(tuned, logprobs),
        "loss": _loss(tuned, logprobs),
        "tokens_per_second": sum(map(len, answers)) / seconds,
    }
    limit = max(KL_LIMIT[task.get("type") or file.stem.removeprefix("model-")], KL_LIMIT[WIDE[task["dtype"]]])
    return measured | {"kl_limit": limit, "problems": _verdicts(measured, limit, task)}


def _verdicts(measured: dict[str, Any], limit: float, task: dict[str, Any]) -> list[str]:
    """One sentence for each measurement that does not hold."""
    problems = []
    num_wrong = len(task["prompts"]) - measured["num_prompts_equal"]
    if num_wrong:
        problems.append(f"llama.cpp reads {num_wrong} prompts as other tokens: {measured['first_difference']}")
    if measured["num_texts_equal"] < len(task["texts"]):
        num_texts = len(task["texts"]) - measured["num_texts_equal"]
        problems.append(f"llama.cpp reads {num_texts} texts as other tokens: {measured['first_difference']}")
    if not measured["kl_mean"] <= limit:
        found = measured["kl_mean"]
        problems.append(f"answers differ by {found:.3g} nats per token, more than its rounding explains ({limit})")
    to_base = measured["kl_to_base"]
    if to_base is not None and not measured["kl_mean"] < to_base:
        problems.append(
            f"it is nearer to the base ({to_base:.3g} nats per token) than to the tuned model "
            f"({measured['kl_mean']:.3g}): rounding loses what was learned; choose a wider type, or train for longer"
        )
    return problems


def _check_tokens(model: NativeModel, task: dict[str, Any]) -> dict[str, Any]:
    """Prompts and texts through llama.cpp's tokenizer, against the ids of training."""
    prompts = [(row["rendered"], tuple(row["ids"]), model.tokenize(row["rendered"])) for row in task["prompts"]]
    texts = [
        (row["text"], tuple(row["ids"]), model.tokenize(row["text"], parse_special=False)) for row in task["texts"]
    ]
    wrong = next(
        (f"{text[:60]!r} is {list(ours)[:12]}, there {list(theirs)[:12]}" for text, ours, theirs in [*prompts, *texts]
         if ours != theirs),
        None,
    )  # fmt: skip
    return {
        "num_prompts_equal": sum(ours == theirs for _, ours, theirs in prompts),
        "num_texts_equal": sum(ours == theirs for _, ours, theirs in texts),
        "first_difference": wrong,
    }


def _greedy(
    model: NativeModel, prompts: Sequence[tuple[int, ...]], stop_ids: tuple[int, ...]
) -> tuple[list[tuple[int, ...]], float]:
    """llama.cpp's own greedy answers, and the seconds they took, prompts included."""
    answers, started = [], time.monotonic()
    for prompt in prompts:
        answer: list[int] = []
        ids: Sequence[int] = prompt
        while len(answer) < MAX_NEW_TOKENS and not (answer and answer[-1] in stop_ids):
            logits_V = model.decode([Piece(0, len(prompt) + len(answer) - len(ids), ids)])[0][-1]
            answer.append(int(logits_V.argmax()))
            ids = answer[-1:]
        model.forget(0)
        answers.append(tuple(answer))
    return answers, time.monotonic() - started


def _along(model: NativeModel, tuned: Reference) -> Iterator[torch.Tensor]:
    """The file's log-probabilities (N, V) along the tuned model's answers."""
    for prompt, answer in zip(tuned.prompt_ids, tuned.answer_ids, strict=True):
        rows: list[np.ndarray] = []
        rows.append(model.decode([Piece(0, 0, prompt)])[0])
        if len(answer) > 1:
            rows.append(model.decode([Piece(0, len(prompt), answer[:-1], all_logits=True)])[0])
        model.forget(0)
        yield torch.from_numpy(np.concatenate(rows)).log_softmax(-1)


def _divergence(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> torch.Tensor:
    """KL(expected || found) in nats at each answer position (N); infinite where any is not a number."""
    parts = []
    for p_NV, q_NV in zip(expected, found, strict=True):
        width = min(p_NV.shape[-1], q_NV.shape[-1])  # a vocabulary may be padded
        terms_NV = p_NV[:, :width].double().exp() * (p_NV[:, :width].double() - q_NV[:, :width].double())
        parts.append(terms_NV.sum(-1))
    return torch.cat(parts).nan_to_num(nan=float("inf"))


def _agreement(tuned: Reference, logprobs: Sequence[torch.Tensor]) -> float:
    """Share of the answers' tokens that are the file's best ones, too."""
    pairs = zip(tuned.answer_ids, logprobs, strict=True)
    hits = [int((found_NV.argmax(-1) == torch.tensor(answer)).sum()) for answer, found_NV in pairs]
    return sum(hits) / sum(map(len, tuned.answer_ids))


def _answer_logprobs(tuned: Reference, logprobs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities (N) of the answers' own tokens."""
    pairs = zip(tuned.answer_ids, logprobs, strict=True)
    return torch.cat([found_NV.gather(-1, torch.tensor(answer)[:, None])[:, 0] for answer, found_NV in pairs])


def _loss(tuned: Reference, logprobs: Sequence[torch.Tensor]) -> float:
    """Mean negative log-probability of the tuned model's answers, nats per token."""
    return -float(_answer_logprobs(tuned, logprobs).double().mean())


def _largest_difference(tuned: Reference, logprobs: Sequence[torch.Tensor]) -> float:
    return float((_answer_logprobs(tuned, logprobs) - _answer_logprobs(tuned, tuned.logprobs)).abs().max())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
