"""The `grm` command. A fault of the user's ends in one line for each thing that is wrong, and status 1."""

import signal
import sys

import cv2
import typer

from .boxes import BoxError
from .config import ConfigError
from .data import DataError
from .data import commands as data
from .model import WeightsError
from .tracking import commands as tracking
from .training import CheckpointError, NonFiniteError
from .training import commands as training
from .video import VideoError

# What the user can mend; told without a trace of where it was found.
FAULTS = (BoxError, CheckpointError, ConfigError, DataError, NonFiniteError, OSError, VideoError, WeightsError)

app = typer.Typer(
    help="GRM: visual tracking by generalized relation modeling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(tracking.track)
app.command()(tracking.division)
app.command()(tracking.attention)
app.command()(tracking.calibrate)
app.command()(tracking.speed)
app.command()(training.train)
app.add_typer(data.app, name="data")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line."""
    signal.signal(signal.SIGTERM, _interrupt)  # what was tracked until then is kept, as with Ctrl-C
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what cannot be read is said by us, in one line
    try:
        app()
    except FAULTS as error:
        for line in str(error).splitlines():
            print(f"grm: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
