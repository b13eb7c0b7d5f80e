"""What is trained besides the adapter or the layers: `additional_target`, and the embedding rows of new tokens.

New rows are trained alone where PEFT can (LoRA): thousands of numbers instead of the whole matrices, and the old tokens
keep their meaning. Embeddings that input and output share stay one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.config import Config
from tunesmith.config.tokens import new_tokens
from tunesmith.errors import ConfigError
from tunesmith.model.load import load_tokenizer
from tunesmith.model.methods.modules import module_names, name_of, require_known
from tunesmith.model.vocabulary import embedding_names, give_rows, is_tied


@dataclass(frozen=True)
class Beside:
    """Whole modules and single rows of embeddings that are trained and saved with an adapter.

    Attributes:
        tie: the embeddings are one matrix, are among the modules, and must stay one.
    """

    modules: list[str] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)
    tie: bool = False


def rows_for_tokens(model: Any, config: Config, tokenizer: Any, say: Callable[[str], None]) -> list[int]:
    """Give new tokens their rows, the same in every run with the same seed; returns those rows."""
    if not config.resize_vocab or tokenizer is None:
        return []
    ids, words = new_token_ids(config, tokenizer)
    if known := [token for token in new_tokens(config).all if token not in ids]:
        say(f"new tokens: the vocabulary has {', '.join(known)} already; nothing is changed about them")
    rows = give_rows(model, 1 + max(tokenizer.get_vocab().values()), ids, words, config)
    if not rows and not known:
        say("resize_vocab: the embeddings have a row for every token already")
    return rows


def new_token_ids(config: Config, tokenizer: Any) -> tuple[dict[str, int], dict[str, list[int]]]:
    """(ids of the tokens that the configuration adds, ids that describe some of them); known tokens are left out."""
    wanted = new_tokens(config)
    if tokenizer is None or not wanted.all:
        return {}, {}
    before = load_tokenizer(replace(config, add_tokens=(), add_special_tokens=(), new_special_tokens_config=None))
    known = before.get_vocab()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in wanted.all if token not in known}
    words = {token: before(text, add_special_tokens=False)["input_ids"] for token, text in wanted.descriptions.items()}
    return ids, words


def embeddings_to_unfreeze(model: Any, config: Config, say: Callable[[str], None]) -> list[str]:
    """freeze: full names of the embeddings that new tokens need trained, unless the user has named one."""
    names = embedding_names(model)
    named = any(name.rsplit(".", 1)[-1] in config.freeze_extra_modules for name in names)
    if not config.resize_vocab or named:
        return []
    say(f"new tokens: {', '.join(names)} are trained too; name one in freeze_extra_modules to choose yourself")
    return names


def beside_adapter(model: Any, config: Config, rows: list[int], say: Callable[[str], None]) -> Beside:
    """`additional_target`, and the rows of new tokens where it does not cover them.

    Raises:
        ConfigError: a module does not exist, or oft cannot train it.
    """
    require_known(config.additional_target, module_names(model), "additional_target")
    embeddings = embedding_names(model)
    named = [name for name in config.additional_target if _full_names(model, name) & _both_embeddings(model)]
    covered = {full for name in named for full in _full_names(model, name)}
    left = [name for name in embeddings if name not in covered]
    if is_tied(model) and (named or (rows and config.finetuning_type == "oft")):
        _refuse_tied_with_oft(config)
        others = [name for name in config.additional_target if name not in named]
        return Beside([*others, embeddings[0]], tie=True)  # the head follows: it is the same matrix
    if not rows or not left:
        return Beside(list(config.additional_target))
    if config.finetuning_type == "oft":
        say(f"new tokens: {', '.join(left)} are trained in full and saved with the adapter")
        return Beside([*config.additional_target, *left])
    say(
        f"new tokens: {len(rows)} new rows of {', '.join(left)} are trained and saved with the adapter; "
        "to train whole embeddings, name them in additional_target"
    )
    return Beside(list(config.additional_target), dict.fromkeys(left, rows))


def _refuse_tied_with_oft(config: Config) -> None:
    if config.finetuning_type == "oft":
        raise ConfigError(
            "oft cannot train embeddings that input and output share",
            why="PEFT would part them, and the model would no longer be the one that was loaded",
            fix="use finetuning_type: lora, or neither add tokens nor name embeddings in additional_target",
        )


def refuse_targeted_embeddings(model: Any, config: Config, rows: list[int]) -> None:
    """Refuse LoRA beside an embedding whose rows are trained or whose weights would be changed.

    Raises:
        ConfigError: `lora_target` names such an embedding.
    """
    both = _both_embeddings(model)
    targeted = next((name for name in config.lora_target if _full_names(model, name) & both), None)
    if targeted is None:
        return
    if rows:
        raise ConfigError(
            f"`lora_target` names {targeted}, which also gets rows for new tokens",
            fix=f"name it in additional_target instead of lora_target: `additional_target: {targeted}`",
        )
    if config.pissa_init or config.loftq_init:
        raise ConfigError(
            f"`lora_target` names {targeted}, and pissa_init and loftq_init change the weights of what they adapt",
            why="an embedding is read by rows, and may be shared with the output head",
            fix="use `lora_target: all`, which leaves the embeddings out",
        )


def _both_embeddings(model: Any) -> set[str]:
    """Full names of input and output embedding, shared or not."""
    head = model.get_output_embeddings()
    return {name_of(model, module) for module in (model.get_input_embeddings(), head) if module is not None}


def _full_names(model: Any, name: str) -> set[str]:
    """The full names of the modules that a user means by a name."""
    return {full for full, _ in model.named_modules() if full == name or full.endswith("." + name)}
