"""Proves an export: does the written folder, loaded by plain transformers, answer as the model that was tried?

Runs in a fresh process (`python -m tunesmith.export.proof TASK.json FOLDER`), so nothing that the exporting process
holds can help. It checks the folder's files, loads the base with its adapters as the chat does, lets it answer fixed
prompts that no training set holds, loads the folder, compares logits, log-probabilities, greedy text, the loss on
held-out rows, tokenizer, prompt tokens, stop tokens, ties and dtypes, hashes every file, and writes `proof.json`. Cost:
three loads of the model and about 260 generated tokens; a quantized folder is measured against a yardstick too.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.config import Config
from tunesmith.config.schema import specs
from tunesmith.errors import ExportError, ModelError, UserError
from tunesmith.export.destination import PROOF_FILE
from tunesmith.export.heldout import HeldOut
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


def make_task(
    config: Config,
    located: Located,
    renderer: Renderer,
    *,
    is_tied: bool,
    chat_template: str | None,
    has_faithful_template: bool,
    held_out: HeldOut,
    quantization: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the fresh process must know, JSON-able: where the parts are, the prompts with their token ids, the rows.

    Args:
        chat_template: the Jinja text that belongs into the folder; None for none.
        quantization: the fields of the `QuantizedForm` of a quantized export.
    """
    from tunesmith.render.contract import tokenizer_hash

    return {
        "config": {key: None if specs()[key].secret else value for key, value in config.__dict__.items()},
        "adapters": list(located.adapters),
        "prompts": [{"text": text, "ids": renderer.prompt([Message("user", text)])} for text in PROMPTS],
        "stop_ids": renderer.stop_ids,
        "end_token": renderer.tokenizer.eos_token,
        "tokenizer_sha256": tokenizer_hash(renderer.tokenizer),
        "is_tied": is_tied,
        "chat_template_sha256": chat_template and _sha256(chat_template),
        "has_faithful_template": has_faithful_template,
        "held_out": {"source": held_out.source, "rows": held_out.rows},
        "quantization": quantization,
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
    """Prove one folder and write its proof.json; 0 when it holds, 1 when not, 2 when it could not be tried."""
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
    """All measurements and checks on `folder`, with a sentence for each that failed under `problems`.

    What cannot be loaded is not measured: the faults of its files are the result then.
    """
    from tunesmith.model.wholeness import check_folder, failures

    (folder / PROOF_FILE).unlink(missing_ok=True)  # an earlier one says nothing about these files
    problems = [_fault_name(fault) for fault in failures(check_folder(folder))]
    proof: dict[str, Any] = {"tunesmith": __version__, "problems": problems}
    proof |= _sources(task)
    if not problems:
        try:
            proof |= _check_tokens(task, folder, problems)
            proof |= _check_weights(task, folder, problems)
        except ModelError as error:
            problems.append(f"cannot be loaded: {error.what}" + (f" ({error.where})" if error.where else ""))
    proof["files_sha256"] = _hashes(folder)
    return proof


def _fault_name(fault: str) -> str:
    """The fault of a file, under the name by which it is known: a missing tokenizer is one."""
    return fault.replace("tokenizer: missing", "tokenizer missing") if fault.startswith("tokenizer: missing") else fault


def _sources(task: dict[str, Any]) -> dict[str, Any]:
    """What the export was made of, with hashes."""
    from tunesmith.infer.locate import ADAPTER_WEIGHTS
    from tunesmith.model.fingerprint import file_sha256, weights_fingerprint
    from tunesmith.model.load import model_folder

    config = _config(task)
    return {
        "base": config.model_name_or_path,
        "base_weights": weights_fingerprint(model_folder(config)),
        "adapters": task["adapters"],
        "adapters_sha256": [file_sha256(Path(name) / ADAPTER_WEIGHTS) for name in task["adapters"]],
        "tokenizer_sha256": task["tokenizer_sha256"],
        "chat_template_sha256": task["chat_template_sha256"],
        "stop_ids": list(task["stop_ids"]),
        "quantization": task["quantization"],
        "held_out": task["held_out"]["source"],
    }


def _check_tokens(task: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """The tokenizer, the chat template and the stop tokens of the folder."""
    from tunesmith.export.measure import folder_stops
    from tunesmith.model.plain import load_plain_tokenizer
    from tunesmith.render.contract import tokenizer_hash

    tokenizer = load_plain_tokenizer(folder)
    is_equal = tokenizer_hash(tokenizer) == task["tokenizer_sha256"]
    if not is_equal:
        problems.append("the tokenizer written is not the one that was used: vocabulary, merges or added tokens differ")
    stops, wanted = folder_stops(folder), task["stop_ids"]
    if sorted(stops) != sorted(wanted):
        problems.append(f"wrong stop token: generation_config.json stops at {list(stops)}, the chat at {list(wanted)}")
    if tokenizer.eos_token != task["end_token"]:
        problems.append(f"wrong stop token: the tokenizer ends at {tokenizer.eos_token!r}, not {task['end_token']!r}")
    num_equal = _equal_prompts(task, tokenizer, problems)
    return {"tokenizer_equal": is_equal, "num_prompts_equal": num_equal, "num_prompts": len(task["prompts"])}


def _equal_prompts(task: dict[str, Any], tokenizer: Any, problems: list[str]) -> int | None:
    """How many prompts the folder's own template gives the same tokens for; None when it has no template."""
    from tunesmith.render.jinja import own_template_ids

    if not tokenizer.chat_template:
        if task["chat_template_sha256"]:
            problems.append("chat template missing: whoever loads the folder would not know how to prompt it")
        return None
    rows = [[{"role": "user", "content": prompt["text"]}] for prompt in task["prompts"]]
    theirs = [own_template_ids(tokenizer, row, {}) for row in rows]
    num_equal = sum(ids == tuple(prompt["ids"]) for ids, prompt in zip(theirs, task["prompts"], strict=True))
    if num_equal < len(rows) and task["has_faithful_template"]:
        problems.append(
            f"the folder's chat template gives other tokens than training for {len(rows) - num_equal} prompts"
        )
    return num_equal


def _check_weights(task: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """The folder's model against adapter-on-base, and that against the base alone."""
    from tunesmith.export.measure import compute_dtype, measure, with_dtype
    from tunesmith.export.verdicts import figures, plain_problems, quantized_problems

    config, quantization = _config(task), task["quantization"]
    stored = config.infer_dtype
    compute = compute_dtype(folder, stored)
    measured = measure(with_dtype(config, compute), task, folder, stored)
    problems += quantized_problems(measured, compute) if quantization else plain_problems(measured, compute, stored)
    prompts = [
        {"prompt": prompt["text"], "ids": list(prompt["ids"]), "answer": answer, "answer_of_folder": folder_answer}
        for prompt, answer, folder_answer in zip(
            task["prompts"], measured.answers, measured.folder_answers, strict=True
        )
    ]
    return {**figures(measured, compute, stored), "tied_embeddings": task["is_tied"], "answers": prompts}


def _config(task: dict[str, Any]) -> Config:
    given = task["config"].items()
    return Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in given})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    from tunesmith.model.fingerprint import file_sha256

    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROOF_FILE)
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
