"""Records of measurements: written, read, checked and put into documents, every kind of them in this one place.

A record is a JSON object with a "kind", a "date" and a "machine"; `KINDS` says what each kind holds besides, and
`benchmarks.tables` what its tables look like. Nothing here imports torch or the kernels.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import survey_tables, tables
from benchmarks.gpu.tables import gpu_caption, gpu_tables
from benchmarks.robustness_tables import robustness_caption, robustness_tables
from benchmarks.tables import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

#: Sources that decide how fast the CPU backend is.
CPU_SOURCES = ("csrc/*.*", "csrc/cpu/*", "grm_kernels/*.py", "setup.py")
#: Sources that decide how fast the GPU backends are.
GPU_SOURCES = ("csrc/*.*", "csrc/cuda/*", "grm_kernels/*.py", "grm_kernels/triton/*.py", "setup.py")


class RecordError(ValueError):
    """A file that is no record, or a record that lacks something."""


@dataclass(frozen=True)
class Kind:
    """What a kind of record holds, and how it is shown."""

    title: str
    render: Callable[[dict], list[Table]]
    caption: Callable[[dict], str]
    #: Keys of the record and their types, besides those that every kind has.
    fields: dict[str, type]
    #: Keys of each of its measurements.
    columns: tuple[str, ...] = ()
    #: What has to be the same in the sources for the times to still be those of the kernels.
    sources: tuple[str, ...] = field(default=CPU_SOURCES)


_OPERATOR = "grm_kernels.category_attention against its baselines"
_WORKLOAD = ("implementation", "dtype", "run", "tokens", "batch", "share_s")
KINDS = {
    "cpu": Kind(
        _OPERATOR,
        tables.operator_tables,
        tables.cpu_caption,
        {"matrix_rate": dict, "memory_rate": float, "measurements": list},
        _WORKLOAD,
    ),
    "gpu": Kind(
        _OPERATOR,
        gpu_tables,
        gpu_caption,
        {"steps": dict, "rates": dict, "measurements": list, "tracker": list, "training": list},
        _WORKLOAD,
        GPU_SOURCES,
    ),
    "tracker": Kind(
        "The tracker, frame by frame",
        tables.tracker_tables,
        tables.tracker_caption,
        {"measurements": list},
        ("preset", "dtype", "forms", "parts", "agreement"),
    ),
    "training, cpu": Kind(
        "A training step",
        tables.training_tables,
        tables.training_caption,
        {"measurements": list},
        ("form", "preset", "batch", "precision"),
    ),
    "learning": Kind(
        "What trained weights track",
        tables.learning_tables,
        tables.learning_caption,
        {"weights": str, "dtype": str, "synthetic": dict},
    ),
    "robustness": Kind(
        "What a tracker bears",
        robustness_tables,
        robustness_caption,
        {"weights": str, "dtype": str, "sequences": int, "bounds": dict, "cases": dict},
    ),
    "trackers": Kind(
        "Trackers side by side",
        tables.trackers_tables,
        tables.trackers_caption,
        {"weights": dict, "dtype": str, "trackers": dict},
    ),
    "survey": Kind(
        "Sizes that users bring",
        survey_tables.survey_tables,
        survey_tables.survey_caption,
        {"load_before": list, "measurements": list},
        ("implementation", "seconds", *survey_tables.CELL),
    ),
    "busy": Kind(
        "A busy machine",
        survey_tables.busy_tables,
        survey_tables.busy_caption,
        {"dtype": str, "load_before": list, "measurements": list},
        ("policy", "busy", "threads", "median_s", "slowest_s"),
    ),
}
_COMMON = {"date": str, "machine": dict}


def check(record: object, name: str = "record") -> dict:
    """The record, if it is one.

    Raises:
        RecordError: it lacks something, or holds something of another type; the message says what was expected.

    """
    if not isinstance(record, dict) or record.get("kind") not in KINDS:
        got = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise RecordError(f"{name}: kind: expected one of {', '.join(map(repr, KINDS))}, got {got!r}")
    kind = KINDS[record["kind"]]
    for key, expected in (_COMMON | kind.fields).items():
        if not isinstance(record.get(key), expected):
            got = type(record[key]).__name__ if key in record else "nothing"
            raise RecordError(f"{name}: {key}: expected {expected.__name__}, got {got}")
    for index, row in enumerate(record.get("measurements", [])):
        missing = [column for column in kind.columns if not isinstance(row, dict) or column not in row]
        if missing:
            raise RecordError(f"{name}: measurements[{index}]: expected {', '.join(missing)}, which it lacks")
    return record


def read(path: Path) -> dict:
    """The record in a file.

    Raises:
        RecordError: the file holds none.
        OSError: it cannot be read.

    """
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise RecordError(f"{path}: expected JSON, got {error}") from None
    return check(record, str(path))


def write(record: dict, path: Path) -> None:
    """Writes a record, as a whole or not at all; makes its folder.

    Raises:
        RecordError: it is none.
        OSError: it cannot be written.

    """
    text = json.dumps(check(record), indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def source_hash(patterns: tuple[str, ...] = CPU_SOURCES) -> str:
    """Hash of the files that the patterns match; a record with another one is of other kernels."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Hash of one file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def is_stale(record: dict) -> bool:
    """Whether the kernels have changed since."""
    return record["machine"].get("sources") != source_hash(KINDS[record["kind"]].sources)


def markdown(record: dict) -> str:
    """The record's tables and its caption."""
    kind = KINDS[record["kind"]]
    parts = []
    for table in kind.render(record):
        parts += [f"{table.title}:"] if table.title else []
        parts.append(table.markdown())
    return "\n\n".join([*parts, kind.caption(record)])


def finish(record: dict, path: Path) -> None:
    """Writes a record, prints its tables, and says where it is; raises as `write` does."""
    write(record, path)
    print_record(record)
    print(f"record: {path}")


def print_record(record: dict) -> None:
    """Prints the tables and the caption to the terminal."""
    from rich.console import Console
    from rich.table import Table as Shown

    console = Console()
    console = console if console.width >= 140 else Console(width=160)
    kind = KINDS[record["kind"]]
    for table in kind.render(record):
        shown = Shown(*table.header, title=table.title or kind.title)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(kind.caption(record), markup=False)
    if is_stale(record):
        console.print("The kernels have changed since.", style="bold")


# ---- blocks of documents ----

#: A block is what stands between these; its name is that of a record in benchmarks/results, or of a key of `BLOCKS`.
_BEGIN, _END = "<!-- benchmark: {} -->", "<!-- end of benchmark: {} -->"
_BLOCK = re.compile(_BEGIN.format(r"(?P<name>\S+)") + r"\n(?P<text>.*?)" + _END.format("(?P=name)"), re.DOTALL)
#: Records of the summary in the README: of one machine.
SUMMARY = {"operator": "cpu_amd_epyc_2026-11-22", "tracker": "tracker_amd_epyc_2026-11-22"}


def gpu_records() -> list[Path]:
    """Records of GPUs in benchmarks/results, the oldest first."""
    return sorted(RESULTS.glob("gpu_*.json"), key=lambda path: (read(path)["date"], path.name))


def _summary() -> str:
    operator, tracker = (read(RESULTS / f"{name}.json") for name in SUMMARY.values())
    return tables.summary(operator, tracker, [read(path) for path in gpu_records()])


def _gpus() -> str:
    texts = [f"### {read(path)['machine'].get('device')}\n\n{markdown(read(path))}" for path in gpu_records()]
    return "\n\n".join(texts) or tables.NO_GPU


#: Blocks that are made of several records.
BLOCKS: dict[str, Callable[[], str]] = {"summary": _summary, "gpu": _gpus}


def documents() -> list[Path]:
    """Files that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> dict[str, str]:
    """What stands in the blocks of a document, by name."""
    return {match["name"]: match["text"] for match in _BLOCK.finditer(text)}


def block(name: str) -> str:
    """What has to stand in a block.

    Raises:
        RecordError: there is no record of this name.

    """
    if name in BLOCKS:
        return BLOCKS[name]() + "\n"
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise RecordError(f"{name}: expected one of {', '.join(BLOCKS)}, or the name of a record in {RESULTS}")
    return markdown(read(path)) + "\n"


def update(paths: Iterable[Path]) -> list[str]:
    """Renders the blocks of documents anew; the names of all blocks that they hold.

    Raises:
        RecordError: a block has no record.

    """
    names = []
    for path in paths:
        text = path.read_text()
        names += blocks(text)

        def render(match: re.Match) -> str:
            name = match["name"]
            return f"{_BEGIN.format(name)}\n{block(name)}{_END.format(name)}"

        new = _BLOCK.sub(render, text)
        if new != text:
            path.write_text(new)
    return names
