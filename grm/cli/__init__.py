"""The `grm` command. Nothing but this package knows of the command line."""

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        sys.exit(f"grm: the command line needs {error.name}: pip install 'grm-kernels[tracker]'")
    run()
