"""Which numbered layers a setting means: `lora_layers: 0-3,-1`, a count from either end, or the expanded blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.errors import ConfigError

_RANGE = re.compile(r"^(-?\d+)(?:-(-?\d+))?$")


def layers_of_ranges(wanted: Sequence[str], num_layers: int) -> list[int]:
    """The layers that `lora_layers` names, in order: numbers and ranges, where -1 is the last layer.

    Raises:
        ConfigError: an entry is no range, runs backwards, or leaves the model.
    """
    chosen: set[int] = set()
    for entry in wanted:
        match = _RANGE.match(entry.replace(" ", ""))
        if match is None:
            raise ConfigError(
                f"`lora_layers`: '{entry}' is neither a layer nor a range of layers",
                fix="write numbers and ranges, such as `lora_layers: 0-3,-1` (-1 is the last layer)",
            )
        ends = [int(end) for end in (match[1], match[2] or match[1])]
        first, last = (end + num_layers if end < 0 else end for end in ends)
        if not 0 <= first <= last < num_layers:
            raise ConfigError(
                f"`lora_layers`: '{entry}' does not fit a model with {num_layers} layers",
                fix=f"layers count from 0 to {num_layers - 1}, or from -{num_layers} to -1; ranges run upwards",
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def layers_from_either_end(wanted: int, num_layers: int) -> range:
    """The last n layers (n > 0) or the first |n| (n < 0), as `freeze_trainable_layers` counts them.

    Raises:
        ConfigError: the model has fewer layers.
    """
    if abs(wanted) > num_layers:
        raise ConfigError(
            f"`freeze_trainable_layers: {wanted}` does not fit a model with {num_layers} layers",
            fix=f"set it between 1 and {num_layers} (the last layers) or -{num_layers} and -1 (the first)",
        )
    return range(num_layers - wanted, num_layers) if wanted > 0 else range(-wanted)


def expanded_layers(num_expanded: int, num_layers: int) -> list[int]:
    """The blocks that were added to an expanded model: the last of each of `num_expanded` equal groups.

    Raises:
        ConfigError: the layers do not fall into that many equal groups of at least two.
    """
    if num_expanded < 1 or num_layers % num_expanded or num_layers == num_expanded:
        fitting = [n for n in range(1, num_layers // 2 + 1) if num_layers % n == 0]
        raise ConfigError(
            f"`use_llama_pro`: {num_layers} layers do not fall into {num_expanded} groups of equal size",
            why="each group ends with one added block, which is trained; `freeze_trainable_layers` is their number",
            fix="set freeze_trainable_layers to the `num_expand` that the model was expanded with "
            f"(`tunesmith expand`); {', '.join(map(str, fitting))} would divide",
        )
    stride = num_layers // num_expanded
    return list(range(stride - 1, num_layers, stride))
