"""The proof of an export as a short table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def proof_table(proof: dict[str, Any], folder: Path) -> str:
    """The lines to print: what was measured, where it lies, and what does not hold."""
    effect = proof["adapter_effect"]
    equal, num_prompts = proof["num_prompts_equal"], proof["num_prompts"]
    rows = [
        ("export", f"{folder} ({len(proof['files_sha256'])} files, {proof['dtype']})"),
        ("merging, in " + proof["compute_dtype"], f"{proof['merge_logit_difference']:.4g} largest logit difference"),
        ("written tensors", f"{proof['num_tensors_compared']} compared with the merged ones"),
        ("largest logit difference", f"{proof['largest_logit_difference']:.4g} (allowed {proof['tolerance']:.4g})"),
        ("greedy agreement", f"{proof['greedy_agreement']:.1%} of {proof['num_answer_tokens']} tokens"),
        ("adapter effect on logits", f"{effect['largest']:.4g}" if effect else "no adapter"),
        ("tokenizer", "equal" if proof["tokenizer_equal"] else "DIFFERENT"),
        ("prompt tokens", "no chat template" if equal is None else f"{equal} of {num_prompts} prompts equal"),
        ("proof", "FAILED" if proof["problems"] else f"holds, {folder / 'proof.json'}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if proof["greedy_agreement"] < 1 and proof["dtype"] != "float32":
        lines.append(
            f"note: rounding to {proof['dtype']} changes a few nearly level choices; infer_dtype: float32 does not"
        )
    return "\n".join([*lines, *(f"problem: {text}" for text in proof["problems"])])
