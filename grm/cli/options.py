"""Options that several commands have, declared once, and what they stand for, checked before any work is done."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BoxError, ConfigError, FrameError, MediaError, NonFiniteError, WeightsError, printable
from ..files import Unfinished

if TYPE_CHECKING:
    import torch

    from ..boxes import Boxes
    from ..config import ModelConfig
    from ..crop import Image
    from ..model import GRM


class Precision(str, Enum):
    """What the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"

    @property
    def dtype(self) -> "torch.dtype":
        """Torch's name for it."""
        import torch

        return getattr(torch, self.value)


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A video file, a folder of images, a camera's number, http://... or rtsp://..."
    ),
]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X,Y,W,H",
        help="The target in the first frame, in pixels; repeat for several targets. Without it: the first line of the "
        "folder's groundtruth.txt, or drawn by you.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="A .safetensors file of ours, a run's checkpoint.pt, a published checkpoint (with --config), or a name of "
        "shipped weights (see grm presets); default: the shipped ones.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="PRESET|FILE", help="A preset or a YAML file. Alone: new, untrained weights."),
]
Preset = Annotated[str, typer.Argument(metavar="PRESET|FILE", help="A preset (see grm presets) or a YAML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration; repeat for several."),
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
]
PrecisionOption = Annotated[Precision, typer.Option("--dtype", help="What the network computes in.")]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads of a CPU to compute with; default: torch's choice, one a core."),
]
CompileOption = Annotated[bool, typer.Option("--compile", help="Use torch.compile: a minute first, then faster.")]
CudaGraph = Annotated[
    bool | None,
    typer.Option(
        "--cuda-graph/--no-cuda-graph", help="Record the kernels of a frame and replay them; default: on a GPU."
    ),
]
Layers = Annotated[
    list[int] | None, typer.Option("--layer", metavar="LAYER", help="A layer, from 1 on; repeat for several.")
]
FrameNumbers = Annotated[
    list[int] | None,
    typer.Option("--frame", metavar="N", min=1, help="Number of a frame to look at; repeat for several. Default: 1."),
]
FrameNumber = Annotated[
    int, typer.Option("--frame", metavar="N", min=1, help="Number of the frame to look at; the first is 0.")
]
Picture = Annotated[Path, typer.Option(metavar="FILE", help="The picture to write: .png, .pdf or .svg.")]

_PICTURES = (".png", ".pdf", ".svg")


def tell(message: str) -> None:
    """Prints a message to standard error, in one line however narrow the terminal is."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(printable(message), markup=False, soft_wrap=True)


def load(weights: str | None, config: str | None, settings: Iterable[str] | None) -> "GRM":
    """The model that --weights, --config and --set say, in evaluation mode on the CPU; tells which weights it has."""
    import torch

    from ..config import load_config
    from ..model import GRM, load_model, load_weights
    from ..weights import DEFAULT, WEIGHTS

    settings = list(settings or ())
    if weights is None and config is None:
        weights = DEFAULT
    if weights is None:
        torch.manual_seed(0)
        model = GRM(load_config(config, settings).model).eval()
        tell("weights: new, untrained ones of --config, which follow nothing; --weights names others")
        return model
    path = _weights_file(weights)
    summary = f" ({WEIGHTS[weights].summary})" if weights in WEIGHTS and str(path) != weights else ""
    if config is None:
        model = load_model(path, settings)
    else:
        model = GRM(load_config(config, settings).model).eval()
        load_weights(model, path)
        if path.suffix.lower() == ".safetensors":
            tell(f"configuration: that of --config, not the one in {weights}")
    tell(f"weights: {weights}{summary}")
    return model


def load_of_run(weights: str | None, run: Mapping[str, Any] | None) -> "GRM":
    """The model of --weights; a published checkpoint in the configuration that a run of grm evaluate was made with.

    Raises:
        ConfigError: this version does not know the run's configuration.
        WeightsError: no such weights, or the run is of a model that they do not fit.

    """
    from ..model import GRM, is_published, load_weights

    if run is None or weights is None or not is_published(path := _weights_file(weights)):
        return load(weights, None, None)
    model = GRM(model_config_of(run)).eval()
    load_weights(model, path)
    tell(f"weights: {weights}")
    return model


def model_config_of(run: Mapping[str, Any]) -> "ModelConfig":
    """The configuration that a run of grm evaluate was made with; a ConfigError where this version does not know it."""
    from ..config import parse_config

    return parse_config({"model": run["identity"].get("configuration")}, name="run.json").model


def _weights_file(weights: str) -> Path:
    """The file that --weights means: a path, or the name of shipped weights."""
    from ..config import presets
    from ..weights import WEIGHTS, find_weights

    path = find_weights(weights)
    if path.is_file():
        return path
    if path.exists():
        raise WeightsError(f"{weights}: expected a file of weights")
    hint = f"did you mean --config {weights}?" if weights in presets() else f"shipped weights: {', '.join(WEIGHTS)}"
    raise WeightsError(f"{weights}: no such file; {hint}")


def device_named(name: str, *, cuda_graph: bool | None = None) -> str:
    """The device that --device says; one that records CUDA graphs if it has to."""
    from ..devices import find_device

    device = find_device(name)
    if cuda_graph and not device.startswith("cuda"):
        raise ConfigError(f"--cuda-graph: needs a CUDA device, got {device}")
    return device


def use_threads(count: int | None) -> None:
    """Has torch compute with as many threads as --threads says."""
    check_threads(count)
    if count is not None:
        import torch

        torch.set_num_threads(count)


def check_threads(count: int | None) -> None:
    """Whether there are so many cores."""
    if count is not None and count > (available := available_cores()):
        raise ConfigError(f"--threads: expected at most {available}, the cores of this process, got {count}")


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows do not say


def layers_named(layers: list[int] | None, model: "GRM") -> list[int]:
    """The layers asked for, counted from 1; without any, those that divide, or all."""
    depth = model.config.encoder.depth
    for number in layers or ():
        if not 1 <= number <= depth:
            raise ConfigError(f"--layer: expected a number from 1 to {depth}, got {number}")
    return layers or list(model.config.division_layers) or list(range(1, depth + 1))


def boxes_given(
    texts: list[str] | None,
    source: str,
    frame: "Image",
    number: int = 0,
    draw: "Callable[[Image], Boxes | None] | None" = None,
) -> "Boxes":
    """(M, 4): --box, or the line of the frame in the folder's groundtruth.txt, or drawn by the user.

    Args:
        texts: of --box.
        source: that the frame is of.
        frame: (height, width, 3).
        number: of the frame, from 0.
        draw: has the user draw a box; None: in a window of its own.

    """
    import numpy as np

    from ..boxes import has_box
    from ..data.readers.annotations import read_box
    from ..data.readers.folder import BOXES
    from .selection import select_box

    if texts:
        boxes = np.stack([_box(text, f"--box {text}") for text in texts])
        for text, box in zip(texts, boxes, strict=True):
            if hint := _as_corners(box, frame):
                tell(f"note: --box {text} reaches beyond the frame; as two corners it would be --box {hint}")
        return boxes
    given = Path(source) / BOXES
    if given.is_file():
        box = read_box(given, number)
        if not has_box(box):
            raise BoxError(f"{given}: line {number + 1} has no box: the target is not in that frame")
        return box[None]
    drawn = (draw or select_box)(frame)
    if drawn is None:
        raise BoxError("no box was drawn")
    return drawn[None]


def appearing(
    texts: list[str] | None, start: int, length: int | None, limit: int | None
) -> tuple[int, list[str], list[tuple[int, str]]]:
    """When targets come: the first frame to look at, the boxes of it, and frame and box of those that come later.

    Args:
        texts: of --box, some of which end in @N.
        start: of --start.
        length: number of frames, if that is known.
        limit: of --limit.

    """
    now, later = [], []
    for text in texts or ():
        box, at, number = text.partition("@")
        if not at:
            now.append(box)
        elif not number.isdecimal():
            raise BoxError(f"--box {text}: expected the number of a frame after @")
        elif int(number) < start or (length is not None and int(number) >= length):
            raise BoxError(
                f"--box {text}: expected a frame from {start} to {'the last' if length is None else length - 1}"
            )
        else:
            later.append((int(number), box))
    later.sort(key=lambda pair: pair[0])
    if later and not now:
        start = later[0][0]
    if later and limit is not None and later[-1][0] >= start + limit:
        number, box = later[-1]
        raise BoxError(f"--box {box}@{number}: expected a frame before {start + limit}, where --limit {limit} ends")
    return start, now + [box for number, box in later if number == start], [x for x in later if x[0] > start]


def _as_corners(box: "Boxes", frame: "Image") -> str | None:
    """What --box should have been if x1,y1,x2,y2 was given; None where it does not look like that."""
    (height, width), (x, y, right, bottom) = frame.shape[:2], box
    if (x + right <= width and y + bottom <= height) or not (0 <= x < right <= width and 0 <= y < bottom <= height):
        return None
    return f"{x:g},{y:g},{right - x:g},{bottom - y:g}"


def one_box_given(texts: list[str] | None, source: str, frame: "Image") -> "Boxes":
    """(4,): the box of the only target."""
    boxes = boxes_given(texts, source, frame)
    if len(boxes) > 1:
        raise BoxError(f"--box: expected one target here, got {len(boxes)}")
    return boxes[0]


def fixed_layers(text: str, model: "GRM") -> dict[int, str]:
    """What --fix says, checked against the model."""
    from ..config import overridden_model

    return overridden_model(model.config, [f"model.division.fixed={text}"], name="--fix").division.fixed


@contextmanager
def placing(where: str) -> Iterator[None]:
    """Says where a frame that cannot be tracked in, or a prediction that is not finite, came up."""
    try:
        yield
    except (FrameError, NonFiniteError) as error:
        raise MediaError(f"{where}: {error}") from error


def check_outputs(outputs: Iterable[Path | None], *inputs: str | Path | None) -> None:
    """Before any work: can they be written, and does nothing that is read lie there?"""
    from ..data.readers.folder import BOXES
    from ..media.images import SUFFIXES, image_folder

    taken = {Path(path).resolve() for path in inputs if path is not None}
    taken |= {path / BOXES for path in taken} | {image_folder(path).resolve() for path in taken}
    for output in filter(None, outputs):
        names = {output.resolve(), Unfinished(output).path.resolve()}
        if names & taken or any(_is_same(output, path) for path in taken):
            raise ConfigError(f"{output}: is read from, or written twice")
        if output.suffix.lower() in SUFFIXES and output.resolve().parent in taken:
            raise ConfigError(f"{output}: would be one of the frames that are read")
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise ConfigError(f"{output}: cannot be written: it is a folder, or in one that does not exist")
        taken |= names


def check_folder(folder: Path, *others: str | Path | None) -> None:
    """Before any work: does a folder that is to be filled hold anything that is read, or written beside it?"""
    places = {folder.resolve(), Unfinished(folder).path.resolve()}
    for other in filter(None, others):
        path = Path(other).resolve()
        if places & {path, *path.parents}:
            raise ConfigError(f"{folder}: is read from, or written twice")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are links to one file."""
    return one.is_file() and other.is_file() and one.samefile(other)


def check_picture(output: Path, *inputs: str | Path | None) -> None:
    """Can it be written, as a picture?"""
    if output.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{output}: expected a picture to write, {', '.join(_PICTURES)}")
    check_outputs([output], *inputs)


def _box(text: str, name: str) -> "Boxes":
    from ..boxes import as_boxes

    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise BoxError(f"{name}: expected four numbers x,y,w,h")
    return as_boxes(numbers, name)
