"""Push a proven export to a hub, with a model card that says what it is made of and what was measured.

Only a folder whose proof holds gets here. What can be refused (no token, a name that is no repository's) is refused
before weights are read. Uploading is left to the hubs' own clients, `huggingface_hub` (which HF_ENDPOINT sends to a
mirror) and `modelscope`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tunesmith import __version__
from tunesmith.config import Config
from tunesmith.errors import ExportError
from tunesmith.infer.locate import Located
from tunesmith.model.hubs import REPOSITORY, hub_of, import_modelscope, modelscope_token

CARD = "README.md"


def check_hub(config: Config) -> None:
    """Raises: ExportError when the upload that is asked for cannot work, before anything is done."""
    name = config.export_hub_model_id
    if not name:
        return
    if not REPOSITORY.match(name):
        raise ExportError(
            f"export_hub_model_id '{name}' is no repository's name",
            fix="Write OWNER/NAME, OWNER being your account or an organization you may write to.",
        )
    if hub_of(config.export_hub) == "modelscope":
        import_modelscope()
        if not modelscope_token(config.ms_hub_token):
            raise _no_token("ModelScope", "MODELSCOPE_API_TOKEN", "ms_hub_token")
        return
    from huggingface_hub import get_token

    if not (config.hf_hub_token or get_token()):
        raise _no_token("Hugging Face", "HF_TOKEN", "hf_hub_token")


def _no_token(hub: str, variable: str, key: str) -> ExportError:
    return ExportError(
        f"export_hub_model_id is set, but no token for {hub} is known",
        why="Nothing can be uploaded without one, and the export would end with that after all its work.",
        fix=f"Set {variable} in the environment (or {key}), with a token that may write.",
    )


def push(config: Config, located: Located, proof: Mapping[str, Any], folder: Path) -> str:
    """Write the model card into `folder` and upload all of it. Returns what to tell the user.

    Raises: ExportError when the hub refuses or cannot be reached; the export itself is in place then.
    """
    name = str(config.export_hub_model_id)
    (folder / CARD).write_text(model_card(name, proof, folder, located.run_dir), encoding="utf-8")
    message = f"Export by Tunesmith {__version__}"
    if hub_of(config.export_hub) == "modelscope":
        return f"pushed to {_push_to_modelscope(config, name, folder, message)}"
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with _refusals(name, folder):
        api = HfApi(token=config.hf_hub_token, library_name="tunesmith", library_version=__version__)
        api.create_repo(name, private=config.export_hub_private, exist_ok=True)
        # one commit, not `upload_folder`, which may make several: nobody should meet half an export
        added = [CommitOperationAdd(str(path.relative_to(folder)), path) for path in files]
        commit = api.create_commit(name, operations=added, commit_message=message)
    return f"pushed to {commit.commit_url}"


def _push_to_modelscope(config: Config, name: str, folder: Path, message: str) -> str:
    api_type, errors = import_modelscope()
    token = modelscope_token(config.ms_hub_token)
    with _refusals(name, folder, errors):
        api = api_type()
        visibility = "private" if config.export_hub_private else "public"
        api.create_repo(name, token=token, visibility=visibility, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            commit_message=message,
            token=token,
            repo_type="model",
            use_cache=False,  # or its client writes a file of its own into the proven folder
        )
    return f"https://modelscope.cn/models/{name}"


@contextmanager
def _refusals(name: str, folder: Path, further: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a hub's client raises into one message. Clients wrap the errors of single files in RuntimeError."""
    from huggingface_hub.errors import HfHubHTTPError

    from tunesmith.model.hubs import network_errors

    expected: tuple[type[Exception], ...] = (HfHubHTTPError, ValueError, RuntimeError, *network_errors(), *further)
    try:
        yield
    except expected as error:
        first = str(error).strip().splitlines()
        raise ExportError(
            f"the export could not be pushed to {name}",
            why=f"{type(error).__name__}: {first[0] if first else 'no connection'}",
            fix=f"The proven export is in {folder}. Check the token's right to write and the connection, then upload "
            "that folder, or run the same command again.",
        ) from error


def model_card(name: str, proof: Mapping[str, Any], folder: Path, run_dir: Path | None) -> str:
    """README.md of the repository: front matter that hubs read, what it is made of, and the figures of the proof."""
    run = _read_yaml(run_dir / "run.yaml") if run_dir else {}
    data = run.get("dataset") or []
    names = [data] if isinstance(data, str) else [str(one) for one in data]
    base, adapters = str(proof["base"]), [str(one) for one in proof["adapters"]]
    front: dict[str, Any] = {"library_name": "transformers", "tags": ["tunesmith"], **licence_of(Path(base))}
    if REPOSITORY.match(base) and not Path(base).exists():
        front["base_model"] = base
    rows = "\n".join(f"| {key} | {value} |" for key, value in _facts(proof, base, adapters, names, run).items())
    return (
        f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---\n\n# {name.rpartition('/')[2]}\n\n"
        f"Exported with Tunesmith {__version__}. `proof.json` holds what was measured after the files had been "
        f"reloaded, and the sha256 of every file (`tunesmith verify FOLDER --hashes`).\n\n| | |\n|---|---|\n{rows}\n"
    )


def _facts(
    proof: Mapping[str, Any], base: str, adapters: list[str], data: list[str], run: Mapping[str, Any]
) -> dict[str, str]:
    """Names instead of paths: where a folder lay on somebody's disk is nobody's business."""
    loss, logprob, kept = proof["held_out_loss"], proof["logprob_difference"], proof["quantization"]
    facts = {
        "Base model": f"{_shown(base)} ({proof['base_weights'][:23]}...)",
        "Adapters merged": ", ".join(_shown(one) for one in adapters) or "none",
        "Method": ", ".join(str(run[key]) for key in ("stage", "finetuning_type") if key in run) or "unknown",
        "Data": ", ".join(_shown(one) for one in data) or "unknown",
        "Weights": "{method}, {bits} bits".format(**kept) if kept else str(proof["dtype"]),
        "Log-probability difference to what was tried": f"{logprob['mean']:.4g} mean, {logprob['largest']:.4g} largest",
        "Greedy agreement": f"{proof['greedy_agreement']:.1%} of {proof['num_answer_tokens']} tokens",
        "Loss before and after exporting": f"{loss['before']:.4f}, {loss['after']:.4f} ({proof['held_out']})",
    }
    return facts if loss["base"] is None else {**facts, "Loss of the base": f"{loss['base']:.4f}"}


def _shown(name: str) -> str:
    path = Path(name)
    return path.name if path.is_absolute() or path.exists() else name


def licence_of(base: Path) -> dict[str, str]:
    """The licence that the base's own card names, which an export inherits; empty when it names none."""
    card = base / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = text.split("\n---", 1)[0].removeprefix("---") if text.startswith("---") else ""
    try:
        front = yaml.safe_load(head)
    except yaml.YAMLError:
        return {}
    found = front if isinstance(front, dict) else {}
    return {key: str(found[key]) for key in ("license", "license_name", "license_link") if found.get(key)}


def _read_yaml(file: Path) -> dict[str, Any]:
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found if isinstance(found, dict) else {}
