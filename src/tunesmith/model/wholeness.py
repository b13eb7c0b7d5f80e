"""Is a folder of weights whole? One line per check, for `tunesmith verify`, for downloads and for an export's proof.

Headers, sizes and indexes only: milliseconds for a folder of many GB. With `hashes` every byte is read and compared
with what was recorded when the folder was written or downloaded (`proof.json`, `download.json`, `manifest.json`).
Unlike `model/verify.py`, which stops at the first fault, this lists them all. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.model.checks import NUM_NAMED, Check, named
from tunesmith.model.fingerprint import file_sha256
from tunesmith.model.gguf_checks import check_gguf_files
from tunesmith.model.verify import INDEX, LFS_MAGIC, read_json_object, verify_safetensors, weight_files

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROOF, DOWNLOAD, MANIFEST = "proof.json", "download.json", "manifest.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tekken.json",),
)
_SPOT_BYTES, _NUM_SPOTS = 4096, 8


def check_folder(folder: Path, *, hashes: bool = False) -> list[Check]:
    """All checks of a model or adapter folder, in order. Never raises for what is wrong with the folder."""
    if not folder.is_dir():
        return [Check("folder", "FAIL", f"there is no folder {folder}")]
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        return [_pointers(folder), *check_gguf_files(folder), *_pickles(folder), *_recorded(folder, hashes)]
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    checks = [_pointers(folder), _settings(folder, is_adapter)]
    headers, weights = _headers(folder, is_adapter)
    checks += weights
    if headers:
        checks += [_tensors(headers), *_zeros(headers, is_adapter)]
    if not is_adapter:
        checks += [_tokenizer(folder), _chat_template(folder), _stop_tokens(folder)]
    return [*checks, *_pickles(folder), *_recorded(folder, hashes)]


def failures(checks: list[Check]) -> list[str]:
    """`name: detail` of each check that failed."""
    return [f"{check.name}: {check.detail}" for check in checks if check.status == "FAIL"]


def _pointers(folder: Path) -> Check:
    found = [name for name, path in _files(folder) if path.stat().st_size < 1024 and _is_pointer(path)]
    if found:
        return Check("LFS pointers", "FAIL", f"not the files themselves: {named(found)}; run `git lfs pull` there")
    return Check("LFS pointers", "ok", "none")


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(LFS_MAGIC)) == LFS_MAGIC


def _settings(folder: Path, is_adapter: bool) -> Check:
    name, key = (ADAPTER_CONFIG, "peft_type") if is_adapter else ("config.json", "model_type")
    try:
        found = read_json_object(folder / name)
    except ModelError as error:
        return Check(name, "FAIL", error.what)
    if not found.get(key):
        return Check(name, "FAIL", f"it names no {key}")
    base = f" for {found.get('base_model_name_or_path')}" if is_adapter else ""
    method = (found.get("quantization_config") or {}).get("quant_method") if not is_adapter else None
    return Check(name, "ok", f"{found[key]}{base}" + (f", quantized by {method}" if method else ""))


def _headers(folder: Path, is_adapter: bool) -> tuple[dict[Path, dict[str, Any]], list[Check]]:
    """The headers of all weight files that can be read, and what is wrong with files and index."""
    try:
        files = _adapter_files(folder) if is_adapter else weight_files(folder)
    except ModelError as error:
        return {}, [Check("weight files", "FAIL", ": ".join(filter(None, (error.what, error.why))))]
    headers, faults = {}, []
    for file in files:
        try:
            headers[file] = verify_safetensors(file)
        except ModelError as error:
            faults.append(error.what)
    size = sum(file.stat().st_size for file in files)
    if faults:
        return headers, [Check("weight files", "FAIL", "; ".join(faults[:NUM_NAMED]))]
    return headers, [Check("weight files", "ok", f"{len(files)}, {size / 1e9:.2f} GB"), *_index(folder, headers)]


def _adapter_files(folder: Path) -> list[Path]:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {ADAPTER_WEIGHTS}")
    return [folder / ADAPTER_WEIGHTS]


def _index(folder: Path, headers: Mapping[Path, dict[str, Any]]) -> list[Check]:
    """Every tensor of the index lies in the file it names and in no other, and no tensor is in no index."""
    if not (folder / INDEX).is_file():
        return []
    named: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    places: dict[str, list[str]] = {}
    for file, header in headers.items():
        for tensor in _tensor_names(header):
            places.setdefault(tensor, []).append(file.name)
    faults = [f"{name} is in {' and '.join(files)}" for name, files in places.items() if len(files) > 1]
    faults += [f"{name} is not in {file}" for name, file in named.items() if file not in places.get(name, ())]
    faults += [f"{name} is in no index" for name in places if name not in named]
    stray = sorted({path.name for path in folder.glob("*.safetensors")} - set(named.values()))
    faults += [f"{name} belongs to no index" for name in stray if name.startswith("model-")]
    if faults:
        return [Check("index", "FAIL", f"{len(faults)} faults: {'; '.join(faults[:NUM_NAMED])}")]
    return [Check("index", "ok", f"{len(named)} tensors, each in one file")]


def _tensor_names(header: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in header if name != "__metadata__")


def _tensors(headers: Mapping[Path, dict[str, Any]]) -> Check:
    """Tensors without a single number: what a sharded save leaves when it was not gathered."""
    all_names = [(name, header[name]) for header in headers.values() for name in _tensor_names(header)]
    empty = [name for name, entry in all_names if 0 in entry["shape"]]
    if empty or not all_names:
        detail = f"{len(empty)} of {len(all_names)} hold nothing: {named(empty)}" if all_names else "there are none"
        return Check("empty tensors", "FAIL", detail)
    return Check("empty tensors", "ok", f"none of {len(all_names)}")


def _zeros(headers: Mapping[Path, dict[str, Any]], is_adapter: bool) -> list[Check]:
    """Matrices of zeros only: in an adapter they mean no effect, in a model they may be meant (added blocks)."""
    zero, seen = [], 0
    for file, header in headers.items():
        start = 8 + int.from_bytes(file.open("rb").read(8), "little")
        for name in _tensor_names(header):
            is_update = ".lora_B." in name or name.endswith("lora_embedding_B")
            if len(header[name]["shape"]) < 2 or (is_adapter and not is_update):
                continue
            seen += 1
            begin, end = header[name]["data_offsets"]
            if _is_zero(file, start + begin, start + end):
                zero.append(name)
    if is_adapter and seen and len(zero) == seen:
        return [Check("effect", "FAIL", "all its updates are zero: it changes nothing")]
    return [Check("zeros", "note", f"{len(zero)} matrices are all zeros: {named(zero)}")] if zero else []


def _is_zero(file: Path, begin: int, end: int) -> bool:
    """Whether bytes [begin, end) are all zero; a few spots decide, unless they are."""
    with file.open("rb") as stream:
        step = max((end - begin) // _NUM_SPOTS, _SPOT_BYTES)
        for place in range(begin, end, step):
            stream.seek(place)
            if any(stream.read(min(_SPOT_BYTES, end - place))):
                return False
        stream.seek(begin)
        left = end - begin
        while left > 0 and (block := stream.read(min(left, 1 << 22))):
            if any(block):
                return False
            left -= len(block)
    return True


def _tokenizer(folder: Path) -> Check:
    found = [names for names in TOKENIZER_FILES if all((folder / name).is_file() for name in names)]
    if not found:
        return Check("tokenizer", "FAIL", "missing: no tokenizer.json, tokenizer.model, vocab.json or vocab.txt")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                read_json_object(folder / name)
            except ModelError as error:
                return Check("tokenizer", "FAIL", error.what)
    if not (folder / "tokenizer_config.json").is_file():
        return Check("tokenizer", "note", f"{found[0][0]}, without tokenizer_config.json")
    return Check("tokenizer", "ok", found[0][0])


def _chat_template(folder: Path) -> Check:
    if (folder / "chat_template.jinja").is_file():
        return Check("chat template", "ok", "chat_template.jinja")
    config = folder / "tokenizer_config.json"
    if config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8", errors="replace"):
        return Check("chat template", "ok", "in tokenizer_config.json")
    is_promised = bool(_json(folder / PROOF).get("chat_template_sha256"))
    detail = "missing: the export had one" if is_promised else "none: a base model, or name `template` yourself"
    return Check("chat template", "FAIL" if is_promised else "note", detail)


def _stop_tokens(folder: Path) -> Check:
    """The ids at which `generate` stops: in the vocabulary, and those of the proof where there is one."""
    settings, config = _json(folder / "generation_config.json"), _json(folder / "config.json")
    ids = as_ids(settings.get("eos_token_id", config.get("eos_token_id")))
    proven = _json(folder / PROOF).get("stop_ids")
    if proven is not None and sorted(ids) != sorted(proven):
        return Check("stop tokens", "FAIL", f"generation stops at {ids}, the proven export at {proven}")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    size = (text or {}).get("vocab_size")
    if isinstance(size, int) and any(number >= size for number in ids):
        return Check("stop tokens", "FAIL", f"{ids} are outside the vocabulary of {size}")
    return Check("stop tokens", "ok" if ids else "note", str(ids) if ids else "none named")


def as_ids(value: Any) -> list[int]:
    """`eos_token_id` as a list: files hold one number, several, or none."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [int(value)]


def _pickles(folder: Path) -> list[Check]:
    found = [name for name, path in _files(folder) if path.suffix in PICKLES]
    return [Check("pickles", "note", f"never read here: {named(found)}")] if found else []


def _recorded(folder: Path, hashes: bool) -> list[Check]:
    """The files against what was recorded of them: all there, of the recorded size and, if asked, content."""
    records = recorded_files(folder)
    if not records:
        detail = "nothing to compare with: neither proof.json nor download.json is there"
        return [Check("hashes", "note", detail)] if hashes else []
    faults = [fault for name, facts in records.items() if (fault := file_fault(folder / name, name, facts, hashes))]
    if faults:
        return [Check("recorded files", "FAIL", f"{len(faults)} of {len(records)}: {'; '.join(faults[:NUM_NAMED])}")]
    how = "hashes equal" if hashes else "present (--hashes reads them too)"
    return [Check("recorded files", "ok", f"{len(records)} {how}")]


def recorded_files(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> `size_bytes`, `sha256`, `git_sha1`, as far as they were recorded."""
    files: dict[str, dict[str, Any]] = {}
    for record in (MANIFEST, DOWNLOAD):
        files |= _json(folder / record).get("files") or {}
    return files | {
        name: {"sha256": value} for name, value in (_json(folder / PROOF).get("files_sha256") or {}).items()
    }


def file_fault(path: Path, name: str, facts: Mapping[str, Any], hashes: bool) -> str:
    """What is wrong with one file by its record; empty when nothing is."""
    if not path.is_file():
        return f"{name} is missing"
    size = facts.get("size_bytes")
    if size is not None and path.stat().st_size != size:
        return f"{name} is {path.stat().st_size:,} of {size:,} bytes long"
    if not hashes:
        return ""
    wanted = facts.get("sha256")
    if wanted is not None:
        return "" if file_sha256(path) == wanted else f"{name} has other content than recorded"
    wanted = facts.get("git_sha1")
    return "" if wanted is None or git_sha1(path) == wanted else f"{name} has other content than recorded"


def git_sha1(path: Path) -> str:
    """The id that git gives a file: sha1 over `blob SIZE\\0` and its bytes; what hubs name for small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 23):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of all files, without those in hidden folders."""
    found = [(path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(name), path) for name, path in found if not any(part.startswith(".") for part in name.parts)]


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except ModelError:
        return {}
