"""What the tracking commands are given: model, boxes, layers and files, checked before any work is done."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ..boxes import BoxError, Boxes, as_boxes
from ..config import ConfigError, load_config
from ..crop import Image
from ..data.folder import BOXES
from ..data.images import SUFFIXES
from ..model import GRM, load_model, load_weights
from ..video import VideoError
from .selection import select_box

_PICTURES = (".png", ".pdf", ".svg")
#: Standard error.
messages = Console(stderr=True, highlight=False)


def load(weights: Path | None, config: str | None, overrides: Iterable[str] | None) -> GRM:
    """The model that --weights, --config and --set say, in evaluation mode on the CPU."""
    overrides = list(overrides or ())
    if weights is None and config is None:
        raise ConfigError("no model: give --weights FILE, or --config PRESET for new, untrained weights")
    if config is None and weights.suffix == ".safetensors":
        return load_model(weights, overrides)
    if config is None:
        raise ConfigError(f"{weights}: a published checkpoint does not hold its configuration: give --config too")
    torch.manual_seed(0)
    model = GRM(load_config(config, overrides).model).eval()
    if weights is not None and weights.suffix == ".safetensors":
        messages.print(f"the configuration is that of --config, not the one in {weights}")
    if weights is None:
        messages.print("no --weights: these are new, untrained ones, which follow nothing")
    else:
        load_weights(model, weights)
    return model


def device_named(name: str) -> str:
    """A device that is there; "auto" is a GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if not name.startswith(("cpu", "cuda")):
            raise RuntimeError("expected cpu or cuda")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def layers_named(layers: list[int] | None, model: GRM) -> list[int]:
    """The layers asked for, counted from 1; without any, those that divide, or all."""
    depth = model.config.encoder.depth
    for number in layers or ():
        if not 1 <= number <= depth:
            raise ConfigError(f"--layer: expected a number from 1 to {depth}, got {number}")
    return layers or list(model.config.division_layers) or list(range(1, depth + 1))


def boxes_given(texts: list[str] | None, source: str, frame: Image) -> Boxes:
    """(M, 4): --box, or the first line of the folder's groundtruth.txt, or drawn by the user."""
    if texts:
        return np.stack([_box(text, f"--box {text}") for text in texts])
    given = Path(source) / BOXES
    if given.is_file():
        line = given.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].strip()
        return _box(line, f"{given}: {line!r}")[None]
    return select_box(frame)[None]


def one_box_given(texts: list[str] | None, source: str, frame: Image) -> Boxes:
    """(4,): the box of the only target."""
    boxes = boxes_given(texts, source, frame)
    if len(boxes) > 1:
        raise BoxError(f"--box: expected one target here, got {len(boxes)}")
    return boxes[0]


def fixed_layers(text: str, model: GRM) -> dict[int, str]:
    """What --fix says, checked against the model."""
    return model.config.with_overrides([f"model.division.fixed={text}"], name="--fix").division.fixed


@contextmanager
def faults_in(what: str) -> Iterator[None]:
    """Frames that are not what they should be, and networks that give nothing finite, end in one line, too."""
    try:
        yield
    except (BoxError, ConfigError, VideoError):
        raise
    except (ValueError, RuntimeError) as error:
        raise VideoError(f"{what}: {error}") from error


def check_outputs(outputs: Iterable[Path | None], *inputs: str | Path | None) -> None:
    """Before any work: can they be written, and does nothing that is read lie there?"""
    taken = {Path(path).resolve() for path in inputs if path is not None}
    taken |= {path / BOXES for path in taken}
    for output in filter(None, outputs):
        if output.resolve() in taken:
            raise ConfigError(f"{output}: is read from, or written twice")
        if output.suffix.lower() in SUFFIXES and output.resolve().parent in taken:
            raise ConfigError(f"{output}: would be one of the frames that are read")
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise ConfigError(f"{output}: cannot be written: it is a folder, or in one that does not exist")
        taken.add(output.resolve())


def check_picture(output: Path, *inputs: str | Path | None) -> None:
    """Can it be written, as a picture?"""
    if output.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{output}: expected a picture to write, {', '.join(_PICTURES)}")
    check_outputs([output], *inputs)


def _box(text: str, name: str) -> Boxes:
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise BoxError(f"{name}: expected four numbers x,y,w,h")
    return as_boxes(numbers, name)
