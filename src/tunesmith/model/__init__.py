"""Models: read, checked, given adapters, scored, saved.

PEFT imports every quantization library that is installed. Some of these tell of kernels for other devices that they did
not find, on every start; below errors they are kept quiet, and that has to happen before PEFT is imported.
"""

import logging

for _library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_library).setLevel(logging.ERROR)
