"""The commands together, and how their faults end: one line for each thing that is wrong, and status 1."""

import os
import sys
from typing import Annotated

import typer

from ..errors import GrmError, printable
from . import ablate, data, evaluate, failures, inspect, report, speed, track, train
from .signals import INTERRUPTED, end_at_signals, stop_as_ctrl_c
from .streams import without_readers

app = typer.Typer(
    help="GRM: visual tracking by generalized relation modeling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_BOX = "--box 320,180,64,48"
app.command(epilog=f"Example: grm track clip.mp4 {_BOX} --output tracked.mp4 --csv boxes.csv")(track.track)
app.command(epilog=f"Example: grm division clip.mp4 {_BOX} --frame 25")(inspect.division)
app.command(epilog=f"Example: grm attention clip.mp4 {_BOX} --layer 1 --layer 2")(inspect.attention)
app.command(epilog=f"Example: grm calibrate clip.mp4 {_BOX} --output fixed.safetensors")(inspect.calibrate)
app.command(epilog="Example: grm speed --config grm_b256 --dtype bfloat16")(speed.speed)
app.command(epilog="Example: grm train synthetic_tiny --set training.epochs=4 --output runs/short")(train.train)
app.command(epilog="Example: grm evaluate lasot --root data/lasot --processes 4")(evaluate.evaluate)
app.command(epilog="Example: grm report results/lasot/* theirs=raw/transt --html report.html")(report.report)
app.command(epilog="Example: grm failures results/lasot/tiny-1234abcd --layer 4 --layer 6")(failures.failures)
app.command(epilog="Example: grm bounds results/synthetic/tiny-1234abcd --output tiny.safetensors")(report.bounds)
app.command(epilog="Example: grm submit results/got10k-test/tiny-1234abcd got10k.zip")(report.submit)
app.command(epilog="Example: grm ablate table4 --budget small")(ablate.ablate)
app.add_typer(data.app, name="data")


@app.command(epilog="Example: grm presets")
def presets() -> None:
    """List the presets, and the weights that come with the package."""
    from ..config import load_config
    from ..config import presets as names
    from ..weights import DEFAULT, WEIGHTS

    print("presets (--config NAME, grm train NAME):")
    for name in names():
        model = load_config(name).model
        encoder = model.encoder
        print(
            f"  {name:<16} width {encoder.width}, {encoder.depth} layers, template {model.template.size}, "
            f"search {model.search.size} pixels"
        )
    print("weights (--weights NAME):")
    for name, weights in WEIGHTS.items():
        print(f"  {name:<16} {weights.summary}{' (the default)' if name == DEFAULT else ''}")


def _print_version(wanted: bool) -> None:
    if wanted:
        from grm_kernels.version import __version__

        print(f"grm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def run() -> None:
    """Runs the command line."""
    stop_as_ctrl_c()  # what was tracked until then is kept
    # What cannot be read is said by us, in one line. OpenCV reads these when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))  # `grm.media.images.MAX_PIXELS`
    # Threads that wait for others spin by default, which on a busy machine takes the cores that they wait for: there
    # it costs up to ten times, and sleeping 7% on an idle one (benchmarks/busy.py). Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with without_readers():
            _run()
    except KeyboardInterrupt:  # before typer's part begins, or after its end
        sys.exit(INTERRUPTED)
    finally:
        end_at_signals()


def _run() -> None:
    try:
        try:
            app()
        finally:
            if sys.stdout:  # a full disk is told by us, too
                sys.stdout.flush()
    except ModuleNotFoundError as error:
        if error.name in sys.modules or error.name is None or error.name.startswith("grm"):
            raise
        extra = "training" if error.name == "tensorboard" else "tracker"
        _fail(f"this needs {error.name}: pip install 'grm-kernels[{extra}]'")
    except GrmError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))


def _fail(message: str) -> None:
    for line in printable(message).split("\n"):
        print(f"grm: {line}", file=sys.stderr)
    sys.exit(1)
