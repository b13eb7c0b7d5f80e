"""Which settings of an export may stand together: rows of `rules.RULES` and `rules.NOTES`."""

from __future__ import annotations

from tunesmith.config.fields.export import EXPORT_BITS
from tunesmith.config.rule import Note, Rule
from tunesmith.config.schema import Config

_EXPORT = ("export",)
CALIBRATED = ("gptq", "awq")


def _calibrates(c: Config) -> bool:
    return c.export_quantization_bit is not None and c.export_quantization_method in CALIBRATED


EXPORT_RULES: tuple[Rule, ...] = (
    Rule(
        "the export method has the bits",
        ("export_quantization_bit", "export_quantization_method"),
        lambda c, g: (
            c.export_quantization_bit is not None
            and c.export_quantization_bit not in EXPORT_BITS[c.export_quantization_method]
        ),
        "export_quantization_method {export_quantization_method} has no {export_quantization_bit} bits",
        "the bits are " + "; ".join(f"{name}: {', '.join(map(str, bits))}" for name, bits in EXPORT_BITS.items()),
        _EXPORT,
    ),
    Rule(
        "calibration needs rows",
        ("export_quantization_dataset", "export_quantization_method"),
        lambda c, g: _calibrates(c) and not c.export_quantization_dataset,
        "export_quantization_method {export_quantization_method} is calibrated on rows, but "
        "export_quantization_dataset is not set",
        "name some rows like those the model will see (the training data will do), or set "
        "export_quantization_method: torchao or bnb, which need none",
        _EXPORT,
    ),
)


EXPORT_NOTES: tuple[Note, ...] = (
    *(
        Note(
            f"{key} without calibration",
            lambda c, g, key=key: key in g and not _calibrates(c),  # type: ignore[misc]
            f"{key} has no effect: only a quantized export by gptq or awq is calibrated",
            _EXPORT,
        )
        for key in ("export_quantization_dataset", "export_quantization_nsamples", "export_quantization_maxlen")
    ),
    Note(
        "export_quantization_method without bits",
        lambda c, g: "export_quantization_method" in g and c.export_quantization_bit is None,
        "export_quantization_method has no effect: export_quantization_bit is not set, so nothing is quantized",
        _EXPORT,
    ),
    *(
        Note(
            f"{key} without a repository",
            lambda c, g, key=key: key in g and not c.export_hub_model_id,  # type: ignore[misc]
            f"{key} has no effect: export_hub_model_id is not set, so nothing is uploaded",
            _EXPORT,
        )
        for key in ("export_hub", "export_hub_private")
    ),
)
