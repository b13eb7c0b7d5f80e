"""An optimizer's state as plain tensors and numbers, and back: no pickles, and nothing is lost.

Every entry has a place, `parameter::entry`, or `::entry` for what belongs to the optimizer as a whole. Objects that
packages keep among their state are taken apart: low-rank projectors (`projector.matrix`), quantized tensors (their
inner tensors), BAdam's fp32 copies and its cursor, counters that live in parameter groups. A run that goes on from it
continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ResumeError
from tunesmith.train.optimizers.combined import Combined
from tunesmith.train.optimizers.moments import is_schedule_free

GROUP_STATE = ("k", "weight_sum", "lr_max", "scheduled_lr", "step", "setup", "kahan_sum", "triton")
"""What schedule-free and StableAdamW count in their groups."""
MASTER, TRAINED = "master", "trained"


def pack_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors by place, and its plain numbers by the same places.

    Args:
        names: id(parameter) -> name.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, state in _states(optimizer, names):
        for key, value in state.items():
            _pack(f"{name}::{key}", value, tensors, numbers)
    for number, group in enumerate(optimizer.param_groups):
        for key in GROUP_STATE:
            if key in group:
                _pack(f"::group.{number}.{key}", group[key], tensors, numbers)
    if hasattr(optimizer, "cursor"):
        numbers["::cursor"] = optimizer.cursor()
    return _apart(tensors), numbers


def _states(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, state) of every parameter that has one."""
    if isinstance(optimizer, Combined):
        for part in optimizer.parts:
            yield from _states(part, names)
        return
    if hasattr(optimizer, "masters"):
        for name, copy in optimizer.masters().items():
            yield name, {MASTER: copy, **optimizer.base_optimizer.state.get(copy, {})}  # type: ignore[attr-defined]
        return
    held = [optimizer.state, *(group["state"] for group in optimizer.param_groups if "state" in group)]
    for states in held:
        for parameter, state in states.items():
            yield names[id(parameter)], dict(state)
    if hasattr(optimizer, "sparse_dict"):
        for parameter, place in optimizer.sparse_dict.items():
            yield names[id(parameter)], {f"mask.{key}": value for key, value in place.items()}
    if is_schedule_free(optimizer):
        for group in optimizer.param_groups:
            yield from ((names[id(p)], {TRAINED: p}) for p in group["params"])


def _pack(place: str, value: Any, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    if hasattr(value, "__tensor_flatten__"):
        for inner in value.__tensor_flatten__()[0]:
            tensors[f"{place}.{inner}"] = getattr(value, inner)
    elif isinstance(value, Tensor):
        tensors[place] = value.detach()
    elif hasattr(value, "ortho_matrix"):
        matrices = value.ortho_matrix if isinstance(value.ortho_matrix, list) else [value.ortho_matrix]
        tensors.update({f"{place}.matrix.{number}": matrix for number, matrix in enumerate(matrices)})
        numbers.update({f"{place}.{key}": getattr(value, key) for key in ("seed", "svd_count") if hasattr(value, key)})
    else:
        numbers[place] = value


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory (bitsandbytes has one code table for all parameters)."""
    seen: set[int] = set()
    apart = {}
    for place, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        apart[place] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return apart


def unpack_state(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put a packed state back into an optimizer made anew from the same settings.

    Args:
        parameters: name and parameter of (at least) everything that the optimizer trains.

    Raises:
        ResumeError: the state belongs to other parameters.
    """
    if hasattr(optimizer, "go_to"):
        optimizer.go_to(numbers["::cursor"])
    owners = _owners(optimizer)
    by_name = {name: p for name, p in parameters if id(p) in owners}
    stored: dict[str, dict[str, Any]] = {}
    for place, value in {**tensors, **numbers}.items():
        name, _, key = place.rpartition("::")
        if name and name not in by_name:
            raise ResumeError(
                f"the checkpoint's optimizer knows a parameter that is not trained now: {name}",
                fix="resume with the settings that the run was started with, or set `overwrite_output_dir: true`",
            )
        stored.setdefault(name, {})[key] = value
    for key, value in stored.pop("", {}).items():
        _restore_group_entry(optimizer, key, value)
    for name, entries in stored.items():
        part, group = owners[id(by_name[name])]
        _restore(part, group, name, by_name[name], entries)


def _owners(optimizer: torch.optim.Optimizer) -> dict[int, tuple[Any, dict[str, Any]]]:
    """id(parameter) -> the optimizer (the part, where there are several) and the group that train it."""
    parts = optimizer.parts if isinstance(optimizer, Combined) else (optimizer,)
    return {id(p): (part, group) for part in parts for group in part.param_groups for p in group["params"]}


def _restore_group_entry(optimizer: torch.optim.Optimizer, key: str, value: Any) -> None:
    kind, _, rest = key.partition(".")
    if kind == "group":
        number, _, entry = rest.partition(".")
        optimizer.param_groups[int(number)][entry] = value.clone() if isinstance(value, Tensor) else value


def _restore(part: Any, group: dict[str, Any], name: str, parameter: nn.Parameter, entries: dict[str, Any]) -> None:
    """Fill the state of one parameter."""
    with torch.no_grad():
        if TRAINED in entries:
            parameter.copy_(entries.pop(TRAINED))
        if hasattr(part, "masters"):
            copy = part.masters()[name]
            copy.copy_(entries.pop(MASTER))
            state = part.base_optimizer.state[copy]
        elif "grokking_signal_fns" in group:  # GrokAdamW keeps its state there
            state = group.setdefault("state", {}).setdefault(parameter, {})
        else:
            state = part.state[parameter]
    plain = {}
    taken_apart: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        root, dot, inner = key.partition(".")
        if dot:
            taken_apart.setdefault(root, {})[inner] = value
        else:
            plain[key] = _on_device(key, value, parameter, group)
    state.update(plain)
    for root, parts in taken_apart.items():
        _restore_object(part, group, parameter, state, root, parts)


def _on_device(key: str, value: Any, parameter: nn.Parameter, group: Mapping[str, Any]) -> Any:
    """A tensor beside its parameter; a step counter stays on the CPU unless the update is fused."""
    if not isinstance(value, Tensor):
        return value
    stays = key == "step" and not (group.get("fused") or group.get("capturable"))
    return value.clone() if stays else value.to(parameter.device, copy=True)


def _restore_object(
    part: Any, group: dict[str, Any], parameter: nn.Parameter, state: dict[str, Any], root: str, inner: dict[str, Any]
) -> None:
    """Put together what was taken apart: a projector, a mask's place, or a quantized tensor."""
    if root == "projector":
        projector = _new_projector(part, group, state)
        numbered = sorted(key for key in inner if key.startswith("matrix."))
        matrices = [inner.pop(key).to(parameter.device, copy=True) for key in numbered]
        projector.ortho_matrix = matrices if group["proj_type"] == "full" else matrices[0]
        for key, value in inner.items():
            setattr(projector, key, value)
        state[root] = projector
    elif root == "mask":
        part.sparse_dict[parameter].update(inner)
    else:
        state[root] = part._new_buffer(parameter, root == "exp_avg")
        for key, value in inner.items():
            getattr(state[root], key).copy_(value)


def _new_projector(part: Any, group: dict[str, Any], state: dict[str, Any]) -> Any:
    if hasattr(part, "_initialize_projector"):  # APOLLO has two kinds
        return part._initialize_projector(group, state)
    from galore_torch.galore_projector import GaLoreProjector

    return GaLoreProjector(
        group["rank"],
        update_proj_gap=group["update_proj_gap"],
        scale=group["scale"],
        proj_type=group["proj_type"],
    )
