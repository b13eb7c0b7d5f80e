"""The proof of an export as a short table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.export.destination import folder_bytes


def proof_table(proof: dict[str, Any], folder: Path) -> str:
    """The lines to print: what was measured, where it lies, and what does not hold."""
    rows = [("export", f"{folder} ({_what(proof, folder)})")]
    if "largest_logit_difference" in proof:  # else the folder could not be loaded
        rows += [*_weights(proof), *_answers(proof), *_tokens(proof)]
    rows.append(("proof", "FAILED" if proof["problems"] else f"holds, {folder / 'proof.json'}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if proof.get("greedy_agreement", 1) < 1 and not proof["quantization"] and proof["dtype"] != "float32":
        lines.append(
            f"note: rounding to {proof['dtype']} changes a few nearly level choices; infer_dtype: float32 does not"
        )
    return "\n".join([*lines, *(f"problem: {text}" for text in proof["problems"])])


def _what(proof: dict[str, Any], folder: Path) -> str:
    kept = proof.get("dtype", "")
    if proof["quantization"]:
        kept = "{method}, {bits} bits".format(**proof["quantization"])
    size = f"{folder_bytes(folder) / 1e6:.0f} MB" if folder.is_dir() else ""
    return ", ".join(filter(None, (f"{len(proof['files_sha256'])} files", size, kept)))


def _weights(proof: dict[str, Any]) -> list[tuple[str, str]]:
    merging = f"{proof['merge_logit_difference']:.4g} largest logit difference"
    rows = [("merging, in " + proof["compute_dtype"], merging)]
    rows.append(("written tensors", f"{proof['num_tensors_compared']} compared with the merged ones"))
    packed = proof.get("packed_weights")
    if packed and packed["largest_error_of_rounding"] is not None:
        share = packed["share_of_update"]
        held = "" if share is None else f", {share:.0%} of the adapter's update in them"
        rows.append(("packed weights", f"{packed['largest_error_of_rounding']:.2f} x rounding error (1.5){held}"))
    return rows


def _answers(proof: dict[str, Any]) -> list[tuple[str, str]]:
    bounds, effect, logprob = proof.get("bounds", {}), proof["adapter_effect"], proof["logprob_difference"]
    loss = proof["held_out_loss"]
    allowed = bounds.get("loss_difference", proof.get("loss_tolerance"))
    differing = f"{proof['largest_logit_difference']:.4g}"
    if not bounds:
        differing += f" (allowed {proof['tolerance']:.4g})"
    distance = f"{logprob['mean']:.4g} mean" + (f" (allowed {bounds['logprob']:.4g})" if bounds else "")
    divergence = f"{logprob['kl']:.4g} nats" + (f" (allowed {bounds['kl']:.4g})" if bounds else "")
    acting = f"{effect['largest']:.4g}, {effect['share_in_folder']:.0%} in the folder" if effect else "no adapter"
    base = "" if loss["base"] is None else f", base {loss['base']:.4f}"
    return [
        ("largest logit difference", differing),
        ("log-prob difference", f"{distance}, {logprob['largest']:.4g} largest; divergence {divergence}"),
        ("greedy agreement", f"{proof['greedy_agreement']:.1%} of {proof['num_answer_tokens']} tokens"),
        ("greedy text", f"{proof['num_equal_answers']} of {len(proof['answers'])} answers equal"),
        ("held-out loss", f"{loss['before']:.4f} -> {loss['after']:.4f} (allowed {allowed:.3g} apart){base}"),
        ("held-out rows", proof["held_out"]),
        ("adapter effect on logits", acting),
    ]


def _tokens(proof: dict[str, Any]) -> list[tuple[str, str]]:
    equal, num_prompts = proof["num_prompts_equal"], proof["num_prompts"]
    return [
        ("tokenizer", "equal" if proof["tokenizer_equal"] else "DIFFERENT"),
        ("prompt tokens", "no chat template" if equal is None else f"{equal} of {num_prompts} prompts equal"),
    ]
