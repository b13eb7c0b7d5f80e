"""New tokens: in the tokenizer, with rows that start as they should, trained alone, and found again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from method_models import logits, made_ready, nudge, trainable
from peft import PeftModel
from safetensors.torch import load_file
from tests.tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.adapters import load_adapter
from tunesmith.model.load import load_tokenizer
from tunesmith.model.save import save_weights, tokenizer_files, write_files
from tunesmith.render import load_renderer
from tunesmith.types import Message

MANY = ",".join(f"<t{number}>" for number in range(200))
NUM_KNOWN = 494  # tokens of the tiny tokenizer; its model has 512 rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tokens") / "model")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tokens") / "tied", tie_word_embeddings=True)


def described(tmp_path: Path, **texts: str) -> str:
    file = tmp_path / "tokens.yaml"
    file.write_text("".join(f'"<{name}>": {text}\n' for name, text in texts.items()), encoding="utf-8")
    return str(file)


def tokenizer_of(folder: Path, **settings: Any) -> Any:
    return load_tokenizer(Config(model_name_or_path=str(folder), **settings))


def test_tokens_are_added_in_order_plain_ones_first(folder: Path) -> None:
    tokenizer = tokenizer_of(folder, add_tokens=("who are", "name"), add_special_tokens=("<a>", "<b>"))
    assert len(AutoTokenizer.from_pretrained(folder)) == NUM_KNOWN
    assert tokenizer.convert_tokens_to_ids(["who are", "name", "<a>", "<b>"]) == list(range(NUM_KNOWN, NUM_KNOWN + 4))
    ids = tokenizer("x <a> who are<b>", add_special_tokens=False)["input_ids"]
    assert {NUM_KNOWN, NUM_KNOWN + 2, NUM_KNOWN + 3} <= set(ids)
    assert tokenizer.decode([NUM_KNOWN, NUM_KNOWN + 2], skip_special_tokens=True) == "who are"


def test_a_known_token_is_left_as_it_is_and_that_is_said(folder: Path) -> None:
    tokenizer = tokenizer_of(folder, add_special_tokens=("<|im_end|>", "<a>"))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert len(tokenizer) == NUM_KNOWN + 1
    notes: list[str] = []
    made_ready(folder, notes, add_special_tokens="<|im_end|>,<a>")
    assert "new tokens: the vocabulary has <|im_end|> already; nothing is changed about them" in notes


def test_a_special_token_of_the_users_own_may_be_typed_in_rows(folder: Path) -> None:
    """The template's control tokens stay text when typed; a token that was added for the rows is a token."""
    config = Config(model_name_or_path=str(folder), add_special_tokens=("<a>",), template="chatml")
    tokenizer = load_tokenizer(config)
    ids = load_renderer(config, tokenizer).prompt([Message("user", "see <a> and <|im_end|>")])
    assert NUM_KNOWN in ids
    assert ids.count(2) == 1  # the end of the turn; the typed one is ordinary text


def test_the_tokenizer_remembers_which_tokens_may_be_typed(folder: Path, tmp_path: Path) -> None:
    write_files(tmp_path, tokenizer_files(tokenizer_of(folder, add_special_tokens=("<a>",))))
    renderer = load_renderer(Config(template="chatml"), AutoTokenizer.from_pretrained(tmp_path))
    assert NUM_KNOWN in renderer.prompt([Message("user", "see <a>")])


def base_rows(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return base.get_input_embeddings().weight, base.get_output_embeddings().weight


@pytest.mark.parametrize(("tokens", "num_rows"), [("<a>", 512), (MANY, 704)])
def test_rows_grow_to_a_multiple_of_64_and_only_when_needed(folder: Path, tokens: str, num_rows: int) -> None:
    model = made_ready(folder, finetuning_type="full", add_special_tokens=tokens)
    assert [len(rows) for rows in base_rows(model)] == [num_rows, num_rows]
    assert model.config.vocab_size == num_rows


def test_old_rows_are_untouched_and_new_ones_are_the_mean_with_noise(folder: Path) -> None:
    model = made_ready(folder, finetuning_type="full", add_special_tokens=MANY)
    original = AutoModelForCausalLM.from_pretrained(folder)
    for rows, old in zip(base_rows(model), base_rows(original), strict=True):
        known, fresh = rows[:NUM_KNOWN], rows[NUM_KNOWN:]
        assert torch.equal(known, old[:NUM_KNOWN])
        noise = fresh - known.mean(0)
        assert noise.mean(0).abs().max() < 4 * (1 / 8) / len(fresh) ** 0.5  # standard deviation 1 / sqrt(64)
        assert abs(noise.std() - 1 / 8) < 0.01


def test_the_seed_decides_the_noise(folder: Path) -> None:
    first, again, other = (
        base_rows(made_ready(folder, finetuning_type="full", add_special_tokens=MANY, seed=seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("how", "is_exact"), [("desc_init", True), ("desc_init_w_noise", False)])
def test_a_description_gives_the_mean_of_its_tokens(folder: Path, tmp_path: Path, how: str, is_exact: bool) -> None:
    config = described(tmp_path, a="small assistant", b="hello")
    model = made_ready(folder, finetuning_type="full", new_special_tokens_config=config, init_special_tokens=how)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for rows in base_rows(model):
        for place, text in enumerate(("small assistant", "hello")):
            expected = rows[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)
            distance = float((rows[NUM_KNOWN + place] - expected).detach().norm())
            assert (distance < 1e-6) is is_exact
            assert distance < 3  # noise of 64 numbers, each 1/8 wide: about 1


def test_descriptions_replace_the_list(folder: Path, tmp_path: Path) -> None:
    config = described(tmp_path, a="hello")
    tokenizer = tokenizer_of(folder, new_special_tokens_config=config, add_special_tokens=("<z>",))
    assert tokenizer.convert_tokens_to_ids("<a>") == NUM_KNOWN
    assert len(tokenizer) == NUM_KNOWN + 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        ("- <a>", "mapping"),
        ("'<a>': ", "no description"),
        ("a: [", "not valid YAML"),
        ("", "mapping"),
    ],
)
def test_a_bad_description_file_is_named(folder: Path, tmp_path: Path, content: str | None, named: str) -> None:
    file = tmp_path / "tokens.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=named):
        tokenizer_of(folder, new_special_tokens_config=str(file))


@pytest.mark.parametrize("model", ["folder", "tied"])
@pytest.mark.parametrize("tokens", ["<a>", MANY])
def test_only_new_rows_are_trained_and_plain_peft_finds_them(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, tokens: str
) -> None:
    path: Path = request.getfixturevalue(model)
    ready = made_ready(path, add_special_tokens=tokens)
    rows = [name for name in trainable(ready) if "lora_" not in name]
    assert len(rows) == (1 if model == "tied" else 2)
    num_fresh = 1 if tokens == "<a>" else 704 - NUM_KNOWN  # new tokens, and spare rows up to the multiple of 64
    assert [trainable(ready)[name].shape for name in rows] == [(num_fresh, 64)] * len(rows)
    nudge(ready)
    save_weights(ready, tmp_path)
    assert not [
        name for name in load_file(tmp_path / "adapter_model.safetensors") if name.endswith("embed_tokens.weight")
    ]
    base = AutoModelForCausalLM.from_pretrained(path)
    if len(base_rows(ready)[0]) > 512:
        base.resize_token_embeddings(len(base_rows(ready)[0]))
    assert torch.equal(logits(PeftModel.from_pretrained(base, str(tmp_path)).eval()), logits(ready))
    own = load_adapter(AutoModelForCausalLM.from_pretrained(path), tmp_path).eval()
    assert torch.equal(logits(own), logits(ready))


@pytest.mark.parametrize("additional", ["embed_tokens", "lm_head", "embed_tokens,lm_head"])
def test_shared_embeddings_stay_one_matrix(tied: Path, tmp_path: Path, additional: str) -> None:
    model = made_ready(tied, add_special_tokens=MANY, additional_target=additional)
    whole = [p for name, p in trainable(model).items() if "lora_" not in name]
    assert [p.shape for p in whole] == [(704, 64)]
    nudge(model)
    save_weights(model, tmp_path)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(tied), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    merged = again.merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)


def test_one_embedding_named_and_the_other_gets_its_rows(folder: Path) -> None:
    notes: list[str] = []
    model = made_ready(folder, notes, add_special_tokens="<a>", additional_target="embed_tokens")
    shapes = {tuple(p.shape) for name, p in trainable(model).items() if "lora_" not in name}
    assert shapes == {(512, 64), (1, 64)}
    assert any("1 new rows of lm_head" in note for note in notes)


def test_freeze_trains_the_embeddings_of_new_tokens(folder: Path) -> None:
    settings = {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "add_special_tokens": "<a>"}
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= trainable(made_ready(folder, **settings)).keys()
    own = trainable(made_ready(folder, **settings, freeze_extra_modules="lm_head"))
    assert "lm_head.weight" in own
    assert "model.embed_tokens.weight" not in own


def test_resize_vocab_alone_mends_a_model_with_too_few_rows(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([f"<t{number}>" for number in range(100)])
    tokenizer.save_pretrained(path)
    assert len(base_rows(made_ready(path, finetuning_type="full"))[0]) == 512
    assert len(base_rows(made_ready(path, finetuning_type="full", resize_vocab=True))[0]) == 640


def test_resize_vocab_without_need_says_so(folder: Path) -> None:
    notes: list[str] = []
    made_ready(folder, notes, resize_vocab=True)
    assert notes == ["resize_vocab: the embeddings have a row for every token already"]


def test_lora_beside_an_embedding_with_new_rows_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lora_target"):
        made_ready(folder, add_special_tokens="<a>", lora_target="q_proj,embed_tokens")


def test_a_quantized_model_gets_no_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.model.vocabulary.is_quantized", lambda model: True)
    with pytest.raises(ConfigError, match="new rows"):
        made_ready(folder, add_special_tokens=MANY)


def test_a_continued_adapter_gets_no_new_rows(folder: Path, tmp_path: Path) -> None:
    save_weights(made_ready(folder), tmp_path)
    with pytest.raises(ConfigError, match="create_new_adapter"):
        made_ready(folder, adapter_name_or_path=tmp_path, add_special_tokens="<a>")


def _with_tokenizer(folder: Path, place: Path, **settings: Any) -> Path:
    model = made_ready(folder, **{key: ",".join(value) for key, value in settings.items()})
    nudge(model)
    save_weights(model, place)
    write_files(place, tokenizer_files(tokenizer_of(folder, **settings)))
    return place


def test_a_second_adapter_keeps_the_tokens_of_the_first(folder: Path, tmp_path: Path) -> None:
    first = _with_tokenizer(folder, tmp_path / "first", add_special_tokens=tuple(MANY.split(",")))
    model = made_ready(folder, adapter_name_or_path=first, create_new_adapter=True, add_tokens="who are")
    own = load_adapter(AutoModelForCausalLM.from_pretrained(folder), first).eval()
    assert torch.allclose(logits(model)[..., :694], logits(own)[..., :694], atol=1e-5)
    config = Config(model_name_or_path=str(folder), adapter_name_or_path=(str(first),), add_tokens=("who are",))
    tokenizer = load_tokenizer(config)
    assert tokenizer.convert_tokens_to_ids(["<t0>", "<t199>", "who are"]) == [494, 693, 694]
    ids = load_renderer(dataclasses.replace(config, template="chatml"), tokenizer).prompt([Message("user", "<t7>")])
    assert NUM_KNOWN + 7 in ids


def test_an_adapter_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    first = _with_tokenizer(folder, tmp_path / "first", add_special_tokens=("<a>", "<b>"))
    other = tiny_model(tmp_path / "other", vocab=400)
    with pytest.raises(ModelError, match="another tokenizer: '<a>' is token 494 there"):
        tokenizer_of(other, adapter_name_or_path=(str(first),))
