"""New tokens: put into the tokenizer, given rows in the embeddings, and found again beside an adapter.

The number of rows becomes a multiple of 64. A new row starts as the mean of the old rows plus noise of standard
deviation 1 / sqrt(D), or as the mean of the rows of its description's tokens; the noise comes from `seed`. All rows
that an adapter adds, spare ones included, are saved in it, so that the base model, enlarged in whatever way, computes
the same with it.
Reference for the description: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from tunesmith.config import Config
from tunesmith.config.tokens import NewTokens
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.methods.modules import name_of
from tunesmith.model.quantized_layers import is_quantized
from tunesmith.model.verify import verify_safetensors

ROWS_MULTIPLE = 64
TYPED = "typed_special_tokens"
"""Key of tokenizer_config.json: special tokens of the user's own, which rows and messages may contain."""


def add_to_tokenizer(tokenizer: Any, tokens: NewTokens) -> None:
    """Add what the vocabulary does not have yet; the special ones stay special wherever they are typed."""
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in tokens.plain if token not in known])
    _add_special(tokenizer, tokens.special)


def _add_special(tokenizer: Any, special: Sequence[str]) -> None:
    known = tokenizer.get_vocab()
    fresh = [AddedToken(token, special=True, normalized=False) for token in special if token not in known]
    tokenizer.add_tokens(fresh, special_tokens=True)
    if fresh:
        typed = tokenizer.init_kwargs.get(TYPED, [])
        tokenizer.init_kwargs[TYPED] = [*typed, *(str(token) for token in fresh)]


def add_tokens_of_adapter(tokenizer: Any, adapter: str | Path) -> None:
    """Add the tokens that the tokenizer saved beside an adapter has beyond this one, under the same ids.

    Raises:
        ModelError: this tokenizer gives them other ids, so it is not the one that the adapter was trained with.
    """
    folder = Path(adapter)
    if not (folder / "tokenizer.json").is_file():
        return
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens") or []
    settings = folder / "tokenizer_config.json"
    typed = json.loads(settings.read_text(encoding="utf-8")).get(TYPED, []) if settings.is_file() else []
    known = tokenizer.get_vocab()
    for entry in sorted(stored, key=lambda entry: entry["id"]):
        text = entry["content"]
        if text in known:
            continue
        flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        tokenizer.add_tokens([AddedToken(text, **flags)], special_tokens=flags["special"])
        found = tokenizer.convert_tokens_to_ids(text)
        if found != entry["id"]:
            raise ModelError(
                f"the adapter {folder} was trained with another tokenizer: '{text}' is token {entry['id']} there, "
                f"{found} here",
                fix="use the base model that the adapter was trained on",
            )
    mine = tokenizer.init_kwargs.get(TYPED, [])
    if fresh := [token for token in typed if token not in mine]:
        tokenizer.init_kwargs[TYPED] = [*mine, *fresh]


def num_rows_of(model: Any) -> int:
    """Rows of the input embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def grow_rows(model: Any, num_rows: int) -> None:
    """Enlarge both embeddings to `num_rows`; a shared matrix stays shared. The new rows hold nothing of meaning yet.

    Raises:
        ConfigError: the model is quantized, so that rows cannot be added.
    """
    if is_quantized(model):
        raise ConfigError(
            "new tokens need new rows in the embeddings, which a quantized model cannot get",
            fix="remove quantization_bit, or add the tokens to the unquantized model first and use that",
        )
    model.resize_token_embeddings(num_rows, mean_resizing=False)


def grow_for_adapter(model: Any, adapter: Path) -> None:
    """Give the base as many rows as an adapter brings; the adapter's own numbers replace what is put there."""
    needed = rows_of_adapter(model, adapter)
    if needed > num_rows_of(model):
        grow_rows(model, needed)


def token_rows_of(adapter: Path) -> list[int]:
    """The single rows of the embeddings that an adapter holds, in order."""
    stored = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("trainable_token_indices")
    lists = list(stored.values()) if isinstance(stored, Mapping) else [stored or []]
    return sorted({index for indices in lists for index in indices})


def rows_of_adapter(model: Any, adapter: Path) -> int:
    """How many rows the embeddings need for the numbers of an adapter; 0 when it leaves them alone."""
    needed = 1 + max(token_rows_of(adapter), default=-1)
    prefixes = tuple(f"base_model.model.{name}." for name in embedding_names(model))
    for name, entry in verify_safetensors(adapter / "adapter_model.safetensors").items():
        if name.startswith(prefixes) and name.endswith(".weight") and "lora_" not in name:
            needed = max(needed, entry["shape"][0])
    return needed


def embedding_names(model: Any) -> list[str]:
    """Full names of the input embedding, and of the head where it has a matrix of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    return [name_of(model, module) for module in modules]


def is_tied(model: Any) -> bool:
    """Whether both embeddings are one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


@torch.no_grad()
def give_rows(
    model: Any, num_tokens: int, new_ids: Mapping[str, int], described: Mapping[str, Sequence[int]], config: Config
) -> list[int]:
    """Make room for every token and initialise the rows of the new ones.

    Args:
        num_tokens: how many ids the tokenizer has.
        new_ids: the new tokens; described: ids of the tokens that describe some of them.
        config: read for `init_special_tokens` and `seed`.

    Returns:
        The rows that are new: those of new tokens, and the spare ones up to the next multiple of 64.
    """
    old_rows = num_rows_of(model)
    if num_tokens > old_rows:
        grow_rows(model, math.ceil(num_tokens / ROWS_MULTIPLE) * ROWS_MULTIPLE)
    fresh = sorted({*new_ids.values(), *range(old_rows, num_rows_of(model))})
    if not fresh:
        return []
    generator = torch.Generator().manual_seed(config.seed)
    meanings = {new_ids[token]: ids for token, ids in described.items() if token in new_ids}
    modules = dict(model.named_modules())
    for name in embedding_names(model):
        _fill(modules[name].weight.data, fresh, meanings, config.init_special_tokens, old_rows, generator)
    return fresh


def _fill(
    weight_VD: Tensor,
    fresh: Collection[int],
    meanings: Mapping[int, Sequence[int]],
    how: str,
    old_rows: int,
    generator: torch.Generator,
) -> None:
    """Write the new rows of one matrix."""
    fresh_rows = set(fresh)
    known = [row for row in range(old_rows) if row not in fresh_rows]
    mean_D = weight_VD[known].float().mean(0)
    for row in fresh:
        noise_D = torch.randn(mean_D.shape, generator=generator) / math.sqrt(len(mean_D))
        is_described = row in meanings and how != "noise_init"
        start_D = weight_VD[list(meanings[row])].float().mean(0) if is_described else mean_D
        quiet = is_described and how == "desc_init"
        weight_VD[row] = (start_D if quiet else start_D + noise_D.to(mean_D.device)).to(weight_VD.dtype)
