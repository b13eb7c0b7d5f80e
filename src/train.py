"""`torchrun src/train.py --stage sft ...`: the same as `tunesmith train ...`, for existing launch scripts."""

import sys

from tunesmith.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
