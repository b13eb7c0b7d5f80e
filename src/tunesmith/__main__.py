"""`python -m tunesmith` is the same command as `tunesmith`."""

from tunesmith.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
