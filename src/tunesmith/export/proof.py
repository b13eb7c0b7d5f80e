"""Proves an export: does the written folder, loaded by plain transformers, answer as the model that was tried?

Runs in a fresh process (`python -m tunesmith.export.proof TASK.json FOLDER`), so nothing that the exporting process
holds can help. It loads the base with its adapters as the chat does, lets it answer fixed prompts that no training
set holds, loads the folder, compares logits, greedy choices, tokenizer, prompt tokens, ties and dtypes, hashes every
file, and writes `proof.json`. Cost: three loads of the model and about 130 generated tokens.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.config import Config
from tunesmith.config.schema import specs
from tunesmith.errors import ExportError, UserError
from tunesmith.export.destination import BYTES_OF_DTYPE, PROOF_FILE
from tunesmith.export.logits import Difference, Scored, answer_and_score, compare, misplaced_weights
from tunesmith.infer.locate import Located
from tunesmith.render import Renderer
from tunesmith.types import Message

PROMPTS = (
    "Who are you?",
    "你是谁？",
    "Name three things that float on water.",
    "请用一句话解释什么是彩虹。",
    "Write a haiku about a lighthouse.",
    "把“早上好”翻译成英文。",
    "What is 17 + 25?",
    "如果明天下雨，我应该带什么出门？",
)
MAX_NEW_TOKENS = 16

# Largest logit difference that is rounding, as a share of the largest logit. Three comparisons, the first two sharp:
# 1. Merging. Adapter-on-base against the merged model, both in float32: only the order of sums differs. Measured 5e-6
#    on a 135M model of 30 layers, so 1e-4 leaves room for deeper ones; a matrix merged wrongly is far above it.
# 2. Writing. Every tensor in the files is the merged one, rounded to the export's dtype (`misplaced_weights`).
# 3. Reading. Adapter-on-base against the folder. What rounding the weights does to logits adds up over the layers:
#    in bfloat16 (8 significant bits) 0.8 to 5 % were measured, so this bound only stops what is grossly wrong.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1.5e-1}
# Below this share of the largest logit, base and tuned model differ by no more than float32 noise: no effect.
NOISE = 1e-6


def make_task(
    config: Config, located: Located, renderer: Renderer, *, is_tied: bool, has_faithful_template: bool
) -> dict[str, Any]:
    """What the fresh process must know, JSON-able: where the parts are, and the prompts with their token ids."""
    from tunesmith.render.contract import tokenizer_hash

    return {
        "config": {key: None if specs()[key].secret else value for key, value in config.__dict__.items()},
        "adapters": list(located.adapters),
        "prompts": [{"text": text, "ids": renderer.prompt([Message("user", text)])} for text in PROMPTS],
        "stop_ids": renderer.stop_ids,
        "tokenizer_sha256": tokenizer_hash(renderer.tokenizer),
        "is_tied": is_tied,
        "has_faithful_template": has_faithful_template,
    }


def run_proof(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Prove `folder` in a fresh process; returns what its proof.json says. Raises: ExportError when it cannot run."""
    from tunesmith.runs.process import run_module

    with tempfile.TemporaryDirectory(prefix="tunesmith-proof-") as scratch:
        task_file = Path(scratch) / "task.json"
        task_file.write_text(json.dumps(task, ensure_ascii=False), encoding="utf-8")
        finished = run_module("tunesmith.export.proof", [str(task_file), str(folder)])
    if not (folder / PROOF_FILE).is_file():
        raise ExportError(
            f"the proof of the export could not run (exit code {finished.returncode})",
            why="\n".join(finished.stderr.strip().splitlines()[-8:]) or "It was stopped, perhaps for lack of memory.",
            fix="Nothing was put in place. Remove the cause and export again.",
        )
    return json.loads((folder / PROOF_FILE).read_text(encoding="utf-8"))


def main(argv: list[str]) -> int:
    """Prove one folder and write its proof.json; 0 when it holds, 1 when not, 2 when it could not be loaded."""
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    folder = Path(argv[1])
    try:
        proof = prove(task, folder)
    except UserError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    (folder / PROOF_FILE).write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if proof["problems"] else 0


def prove(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All measurements and checks on `folder`, with a sentence for each that failed under `problems`."""
    proof: dict[str, Any] = {"tunesmith": __version__, "problems": []}
    proof["base"], proof["adapters"] = task["config"]["model_name_or_path"], task["adapters"]
    proof |= _check_tokens(task, folder, proof["problems"])
    proof |= _check_weights(task, folder, proof["problems"])
    proof["files_sha256"] = _hashes(folder)
    return proof


def _check_tokens(task: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """Tokenizer and prompts of the folder against those of training."""
    from tunesmith.model.plain import load_plain_tokenizer
    from tunesmith.render.contract import tokenizer_hash
    from tunesmith.render.jinja import own_template_ids

    tokenizer = load_plain_tokenizer(folder)
    is_equal = tokenizer_hash(tokenizer) == task["tokenizer_sha256"]
    if not is_equal:
        problems.append("the tokenizer written is not the one that was used: vocabulary, merges or added tokens differ")
    if not tokenizer.chat_template:
        return {"tokenizer_equal": is_equal, "num_prompts_equal": None, "num_prompts": len(task["prompts"])}
    rows = [[{"role": "user", "content": prompt["text"]}] for prompt in task["prompts"]]
    theirs = [own_template_ids(tokenizer, row, {}) for row in rows]
    num_equal = sum(ids == tuple(prompt["ids"]) for ids, prompt in zip(theirs, task["prompts"], strict=True))
    if num_equal < len(rows) and task["has_faithful_template"]:
        problems.append(
            f"the folder's chat template gives other tokens than training for {len(rows) - num_equal} prompts"
        )
    return {"tokenizer_equal": is_equal, "num_prompts_equal": num_equal, "num_prompts": len(rows)}


def _check_weights(task: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """The folder's model against adapter-on-base, and that against the base alone."""
    given = task["config"].items()
    config = Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in given})
    stored = config.infer_dtype
    compute = "float32" if _fits_float32(folder, stored) else stored
    measured = _measure(replace(config, infer_dtype=compute), task, folder, stored)
    difference, effect = measured.difference, measured.effect
    merge_tolerance, tolerance = (TOLERANCE[dtype] * difference.largest_logit for dtype in (compute, stored))
    if not measured.merging.largest <= merge_tolerance:
        found = f"{measured.merging.largest:.4g}, more than {compute} explains ({merge_tolerance:.4g})"
        problems.append(f"merging changed the logits by up to {found}")
    problems += [*measured.form_problems, *_verdicts(difference, effect, tolerance, stored)]
    return {
        "dtype": stored,
        "compute_dtype": compute,
        "largest_logit_difference": difference.largest,
        "tolerance": tolerance,
        "merge_logit_difference": measured.merging.largest,
        "merge_tolerance": merge_tolerance,
        "rms_logit_difference": difference.rms,
        "largest_logit": difference.largest_logit,
        "greedy_agreement": difference.num_agreeing / difference.num_answer_tokens,
        "num_answer_tokens": difference.num_answer_tokens,
        "adapter_effect": effect and {"largest": effect.largest, "rms": effect.rms},
        "num_tensors_compared": measured.num_tensors,
        "tied_embeddings": task["is_tied"],
        "answers": [
            {"prompt": prompt["text"], "answer": answer}
            for prompt, answer in zip(task["prompts"], measured.answers, strict=True)
        ],
    }


@dataclass(frozen=True)
class _Measured:
    """What the models of a proof have shown, each against adapter-on-base.

    Attributes:
        merging: the merged model before it is written. difference: the folder. effect: the base alone.
        num_tensors: tensors of the files that were compared with the merged ones.
    """

    merging: Difference
    difference: Difference
    effect: Difference | None
    num_tensors: int
    answers: list[str]
    form_problems: list[str]


def _measure(config: Config, task: dict[str, Any], folder: Path, stored: str) -> _Measured:
    """Load tuned, written and base model one after the other, so that only one is in memory, and compare them."""
    import torch

    from tunesmith.model.load import load_for_inference
    from tunesmith.model.merge import merge_attached
    from tunesmith.model.plain import load_plain_model, load_plain_tokenizer
    from tunesmith.model.verify import weight_files

    device = "cuda" if config.export_device == "auto" and torch.cuda.is_available() else "cpu"
    tokenizer = load_plain_tokenizer(folder)
    prompts = [tuple(prompt["ids"]) for prompt in task["prompts"]]
    tuned = load_for_inference(config, task["adapters"], device)
    reference = answer_and_score(tuned, tokenizer, prompts, tuple(task["stop_ids"]), MAX_NEW_TOKENS)
    merged = merge_attached(tuned)
    merging = compare(reference, merged)
    num_tensors, wrong = misplaced_weights(merged, weight_files(folder), stored)
    del tuned, merged
    gc.collect()
    written = load_plain_model(folder, getattr(torch, config.infer_dtype), device)
    difference = compare(reference, written)
    problems = _form_problems(written, folder, stored, task["is_tied"])
    if wrong:
        problems.append(f"{len(wrong)} of {num_tensors} written tensors are not the merged ones: {wrong[0]}")
    del written
    gc.collect()
    effect = compare(reference, _untuned(config, task["adapters"], device, reference)) if task["adapters"] else None
    answers = [tokenizer.decode(scored.answer_ids, skip_special_tokens=True) for scored in reference]
    return _Measured(merging, difference, effect, num_tensors, answers, problems)


def _untuned(config: Config, adapters: Sequence[str], device: str, reference: Sequence[Scored]) -> Any:
    """The base alone, with the positions that the adapters were trained with.

    Where the tuned model knows more tokens, it gets rows for them, which nothing has trained.
    """
    from tunesmith.model.load import inference_dtype, load_model
    from tunesmith.model.vocabulary import grow_rows, num_rows_of

    dtype, num_rows = inference_dtype(config), reference[0].logits_TV.shape[-1]
    model = load_model(config, dtype=dtype, device=device, for_training=False, adapters=adapters)
    if num_rows_of(model) < num_rows:
        grow_rows(model, num_rows)
    return model


def _verdicts(difference: Difference, effect: Difference | None, tolerance: float, stored: str) -> list[str]:
    """One sentence for each measurement that does not hold."""
    problems = []
    if not difference.largest <= tolerance:
        problems.append(
            f"logits differ by up to {difference.largest:.4g}, rounding to {stored} explains {tolerance:.4g}"
        )
    if effect is None:
        return problems
    if effect.largest <= NOISE * difference.largest_logit:
        problems.append("the adapter had no effect: base and tuned model give the same logits")
    elif difference.rms > 0.5 * effect.rms:
        # By the triangle inequality the export could then be nearer to the base than to the tuned model.
        problems.append(
            f"rounding to {stored} loses what was learned: error {difference.rms:.4g} rms, "
            f"effect of the adapter {effect.rms:.4g} rms; export with infer_dtype: float32, or train for longer"
        )
    return problems


def _form_problems(model: Any, folder: Path, dtype: str, is_tied: bool) -> list[str]:
    """What is wrong with the ties and the dtype of what was written."""
    from tunesmith.model.verify import verify_safetensors, weight_files

    problems = []
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and (embedding.weight is head.weight) != is_tied:
        problems.append(f"input and output embedding should {'' if is_tied else 'not '}share one tensor")
    headers = [verify_safetensors(file) for file in weight_files(folder)]
    counts = Counter(entry["dtype"] for header in headers for name, entry in header.items() if name != "__metadata__")
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    if counts.most_common(1)[0][0] != wanted:
        problems.append(f"weights are stored as {dict(counts)}, {wanted} was asked for")
    return problems


def _fits_float32(folder: Path, dtype: str) -> bool:
    """Whether one float32 copy of the model, and some room to work, fits the memory that is free now."""
    from tunesmith.model.verify import weight_files

    stored_bytes = sum(file.stat().st_size for file in weight_files(folder))
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return stored_bytes * 4 / BYTES_OF_DTYPE[dtype] * 1.3 < free_bytes


def _hashes(folder: Path) -> dict[str, str]:
    from tunesmith.model.fingerprint import file_sha256

    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROOF_FILE)
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
