"""The value head: what it computes, the file that keeps it, and files that do not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.errors import ModelError
from tunesmith.model.value_head import VALUE_HEAD, ValueHead, load_value_head, save_value_head


def test_a_head_survives_its_file_and_the_file_has_the_names_that_others_read(tmp_path) -> None:
    head = ValueHead(8, dropout=0.5)
    save_value_head(head, tmp_path)
    stored = load_file(tmp_path / "value_head.safetensors")
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == {
        "v_head.summary.weight": ((1, 8), torch.float32),
        "v_head.summary.bias": ((1,), torch.float32),
    }
    hidden = torch.randn(5, 8)
    expected = hidden @ stored["v_head.summary.weight"][0] + stored["v_head.summary.bias"]
    torch.testing.assert_close(load_value_head(tmp_path, 8)(hidden), expected)


def test_values_are_summed_in_fp32_also_under_autocast() -> None:
    head = ValueHead(4096).eval()
    hidden = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = hidden.double() @ head.summary.weight[0].double() + head.summary.bias.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = head(hidden)
    assert (values.dtype, values.shape) == (torch.float32, (3,))
    torch.testing.assert_close(values.double(), exact, atol=1e-5, rtol=1e-5)  # bf16 would be off by 1e-2


def test_dropout_acts_in_training_only() -> None:
    head, hidden = ValueHead(64, dropout=0.5), torch.ones(1, 64)
    assert len({float(head(hidden)) for _ in range(8)}) > 1
    head.eval()
    assert len({float(head(hidden)) for _ in range(8)}) == 1


def test_a_head_that_does_not_fit_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"holds no value_head\.safetensors"):
        load_value_head(tmp_path, 8)
    save_value_head(ValueHead(8), tmp_path)
    with pytest.raises(ModelError, match=r"of shape \(1, 8\), the model needs \(1, 16\)"):
        load_value_head(tmp_path, 16)
    save_file({"v_head.summary.weight": torch.zeros(1, 8)}, tmp_path / VALUE_HEAD)
    with pytest.raises(ModelError, match=r"has no v_head.summary.bias"):
        load_value_head(tmp_path, 8)
    (tmp_path / VALUE_HEAD).write_bytes((tmp_path / VALUE_HEAD).read_bytes()[:-4])
    with pytest.raises(ModelError, match="4 bytes are missing"):
        load_value_head(tmp_path, 8)
