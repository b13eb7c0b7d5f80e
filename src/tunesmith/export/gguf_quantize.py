"""K-quants of a GGUF file: llama.cpp's kernels (`ggml_quantize_chunk`), with its choice of a type for each tensor.

q4_k_m and q5_k_m give the matrices where rounding hurts most 6 bits: the output head, and the value and down
projections of the first and last eighth of the layers and of every third one between. A K-quant rounds blocks of 256
values of a row; where rows are no multiple of 256 long (small models), llama.cpp falls back to a type of 32-value
blocks with at least as many bits, and so does this. About 1 minute per billion parameters and core.
The rules: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ExportError
from tunesmith.infer.llamacpp_native import library

K_TYPES = ("q4_k_m", "q5_k_m", "q6_k")

_MAIN = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K"}
_FUSED = {"q4_k_m": "Q5_K", "q5_k_m": "Q6_K", "q6_k": "Q6_K"}
_FILE_TYPE = {"q4_k_m": "MOSTLY_Q4_K_M", "q5_k_m": "MOSTLY_Q5_K_M", "q6_k": "MOSTLY_Q6_K"}
_SHORT_ROWS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_BLOCK, _SHORT_BLOCK = 256, 32
_UNTOUCHED = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d.weight", "position_embd.weight", "token_types.weight")
_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class Plan:
    """What decides a tensor's type: the scheme, the number of layers, and whether the head is a tensor of its own."""

    scheme: str
    num_layers: int
    has_output: bool

    def type_of(self, name: str, row_length: int) -> str:
        """ggml's name of the type for a matrix called `name` with rows of `row_length` values."""
        if name == "output.weight" or (name == "token_embd.weight" and not self.has_output):
            wanted = "Q8_0" if row_length % _BLOCK else "Q6_K"
        elif name.endswith("attn_qkv.weight"):
            wanted = _FUSED[self.scheme]
        elif name.endswith(("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")) and self._gets_more(name):
            wanted = "Q6_K"
        else:
            wanted = _MAIN[self.scheme]
        if wanted in _SHORT_ROWS and row_length % _BLOCK:
            wanted = _SHORT_ROWS[wanted]
        return "F16" if row_length % _SHORT_BLOCK else wanted

    def _gets_more(self, name: str) -> bool:
        """Whether the layer is in the first or last eighth, or every third between."""
        found = _LAYER.match(name)
        layer, eighth = int(found[1]) if found else 0, self.num_layers // 8
        return layer < eighth or layer >= 7 * self.num_layers // 8 or (layer - eighth) % 3 == 2


def quantize_file(source: Path, out: Path, scheme: str) -> dict[str, int]:
    """Write `source`, a GGUF file of 16- or 32-bit floats, to `out` in one of `K_TYPES`.

    Returns: how many tensors got which type.

    Raises: ExportError when a tensor of `source` is quantized already.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    fields = reader.fields
    architecture = str(fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, architecture)
    _copy_fields(fields.values(), writer, int(gguf.LlamaFileType[_FILE_TYPE[scheme]]))
    layers = int(fields[f"{architecture}.block_count"].contents())
    plan = Plan(scheme, layers, any(tensor.name == "output.weight" for tensor in reader.tensors))
    types = {tensor.name: _type_of(tensor, plan) for tensor in reader.tensors}
    for tensor in reader.tensors:
        shape = [int(length) for length in reversed(tensor.shape)]
        kind = gguf.GGMLQuantizationType[types[tensor.name]]
        if kind == tensor.tensor_type:
            writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, kind)
            continue
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(_converted(tensor, types[tensor.name]))
    writer.close()
    return dict(Counter(types.values()))


def _type_of(tensor: Any, plan: Plan) -> str:
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or tensor.name.endswith(_UNTOUCHED):
        return str(tensor.tensor_type.name)
    if tensor.tensor_type.name not in ("F32", "F16", "BF16"):
        raise ExportError(f"tensor {tensor.name} is quantized already ({tensor.tensor_type.name})")
    return plan.type_of(tensor.name, int(tensor.shape[0]))


def _converted(tensor: Any, type_name: str) -> np.ndarray:
    """The bytes of one tensor in its new type."""
    import gguf

    kind = gguf.GGMLQuantizationType[type_name]
    if kind == tensor.tensor_type:
        return np.asarray(tensor.data)
    rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    return quantize_rows(np.ascontiguousarray(rows), type_name)


def quantize_rows(rows: np.ndarray, type_name: str) -> np.ndarray:
    """Rows of float32 values, in any leading shape, as bytes of a ggml type, by llama.cpp's own kernel."""
    import gguf

    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    kind = gguf.GGMLQuantizationType[type_name]
    row_length = rows.shape[-1]
    out = np.empty(gguf.quant_shape_to_byte_shape(rows.shape, kind), dtype=np.uint8)
    num_rows = rows.size // row_length
    written = library().ggml_quantize_chunk(int(kind), rows.ctypes.data, out.ctypes.data, 0, num_rows, row_length, None)
    assert written == out.nbytes, f"{type_name}: {written} bytes written, {out.nbytes} expected"
    return out


def _copy_fields(fields: Iterable[Any], writer: Any, file_type: int) -> None:
    """The metadata of one file into the writer of another, with another file type."""
    import gguf

    for field in fields:
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(file_type)
    if "general.quantization_version" not in {field.name for field in fields}:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
