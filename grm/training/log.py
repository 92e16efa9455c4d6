"""What a run leaves to be read: JSON lines, TensorBoard, and pictures of them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..files import naming, write_text

#: Of the folder of a run.
METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Writes the metrics of a run to `metrics.jsonl` and to TensorBoard's files in its folder.

    Each line has "step", "epoch" and named numbers. One that is not finite is written as null, so that each line is
    JSON.

    Args:
        folder: of the run.
        first_step: steps that are done already. What the log has of later ones is dropped: a run that was killed wrote
            them after its last checkpoint.

    Raises:
        OSError: a file cannot be written, here or later.
        ConfigError: TensorBoard is not installed.

    """

    def __init__(self, folder: Path, first_step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("the log needs TensorBoard: pip install 'grm-kernels[training]'") from None
        self._path = folder / METRICS_FILE
        kept = [line for line in read_log(folder) if line["step"] <= first_step] if first_step else []
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(folder / "tensorboard", purge_step=first_step + 1)

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds a line, after so many steps."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step, "epoch": epoch, **finite}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(_board_name(name), value, step)

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        self._board.close()


def _board_name(name: str) -> str:
    """A metric's name on TensorBoard, which puts in one group what has the same word before the slash."""
    if name.startswith("share_a_"):
        return f"share_a/layer_{name.removeprefix('share_a_')}"
    return f"held_out/{name}" if name.startswith("ao") else f"training/{name}"


def read_log(folder: Path) -> list[dict[str, float | None]]:
    """The lines of a run's log; a last one that was cut short is left out.

    Raises:
        CheckpointError: a line is not one of a run's log.

    """
    path = folder / METRICS_FILE
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number == len(texts):
                break
            line = None
        if not isinstance(line, dict) or type(line.get("step")) is not int or not all(map(_is_value, line.values())):
            raise CheckpointError(f"{path}: line {number} is none of a run's log; without that file the run goes on")
        lines.append(line)
    return lines


def _is_value(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def draw_log(folder: Path) -> list[Path]:
    """Draws a run's log: `loss.png` (terms of the loss, overlap) and `share_a.png` (share of A tokens of each layer).

    Returns:
        the pictures there is something for.

    """
    from matplotlib.figure import Figure

    lines = read_log(folder)
    training = [line for line in lines if "total" in line]
    evaluated = [line for line in lines if "ao" in line]
    if not training:
        return []
    steps = [line["step"] for line in training]

    def curve(name: str) -> list[float]:
        return [math.nan if line.get(name) is None else line[name] for line in training]

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("total", "focal", "giou", "l1", "entropy", "division"):
        if any(curve(name)):
            left.plot(steps, curve(name), label="total, weighted" if name == "total" else name)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.plot(steps, curve("iou"), label="IoU of training pairs")
    if evaluated:
        right.plot([e["step"] for e in evaluated], [e["ao"] for e in evaluated], "o-", label="AO, held out")
    right.set(xlabel="step", ylim=(0, 1))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(folder / "loss.png", dpi=120)
    pictures = [folder / "loss.png"]

    layers = [name for name in training[-1] if name.startswith("share_a_")]
    if layers:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for i, name in enumerate(layers):
            shade = (0.1, 0.3 + 0.6 * i / max(1, len(layers) - 1), 0.8 - 0.6 * i / max(1, len(layers) - 1))
            axes.plot(steps, curve(name), color=shade, label=f"layer {name.removeprefix('share_a_')}")
        axes.set(xlabel="step", ylabel="share of search tokens in A", ylim=(0, 1))
        axes.legend(ncols=2, fontsize="small")
        axes.grid(alpha=0.3)
        figure.savefig(folder / "share_a.png", dpi=120)
        pictures.append(folder / "share_a.png")
    return pictures
