"""`tunesmith verify FOLDER [--hashes]`: is a model or adapter folder whole? Exit code 0 when it is, 1 when not."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import ConfigError

USAGE = "tunesmith verify FOLDER [--hashes]"
EXIT_FAULTY = 1


def run(argv: list[str]) -> int:
    """Print one line per check. Raises: ConfigError when no folder is named."""
    unknown = [word for word in argv if word.startswith("-") and word != "--hashes"]
    folders = [word for word in argv if not word.startswith("-")]
    if unknown or len(folders) != 1:
        what = f"cannot read '{unknown[0]}'" if unknown else f"one folder is needed, {len(folders)} are given"
        raise ConfigError(what, fix=USAGE)
    from tunesmith.model.wholeness import check_folder, failures

    folder = Path(folders[0]).expanduser()
    checks = check_folder(folder, hashes="--hashes" in argv)
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.status:<4}  {check.name:<{width}}  {check.detail}")
    faults = failures(checks)
    print(f"\n{folder}: {f'{len(faults)} of {len(checks)} checks FAILED' if faults else 'whole'}")
    return EXIT_FAULTY if faults else 0
