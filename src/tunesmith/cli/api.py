"""`tunesmith api FILE.yaml`: serve a model, or what a training file has tuned, as an OpenAI API."""

from __future__ import annotations

import os


def run(argv: list[str]) -> int:
    """Serve as `argv` and the environment say; both are checked before torch is imported."""
    from tunesmith.cli.api_arguments import split_arguments

    own, rest = split_arguments(argv)
    _need_packages("httpx" if own.selfcheck or own.selfcheck_url else "fastapi", "uvicorn")
    if own.selfcheck_url:
        from tunesmith.serve.conformance.command import check_running

        return check_running(own.selfcheck_url, own.model, own.report)
    from tunesmith.config.resolve import resolve
    from tunesmith.serve.openai.settings import settings_from_environment

    resolved = resolve(rest, verb="api")
    if own.selfcheck:
        from tunesmith.serve.conformance.command import check_file

        return check_file(rest, own.model, own.report)
    settings = settings_from_environment(os.environ)
    from tunesmith.serve.openai.start import serve

    return serve(resolved, settings)


def _need_packages(*names: str) -> None:
    """Raises: ConfigError when one of these packages is not installed."""
    from importlib.util import find_spec

    from tunesmith.errors import ConfigError

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the API needs {' and '.join(missing)}", fix='pip install "tunesmith[api]"')
