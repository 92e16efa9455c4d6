"""Trackers compared over benchmarks: their figures on the same sequences, and which differences mean something."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..boxes import Boxes
from ..config import SyntheticConfig, parse_config
from ..data import VideoSequence
from ..data.readers.annotations import read_lines
from ..errors import ConfigError, DataError
from ..tracking.certainty import running_means
from .benchmarks import BENCHMARKS, SYNTHETIC, Benchmark, find_benchmark, open_benchmark
from .metrics import Protocol
from .presence import Presence, presence
from .results import RUN, Results, Speed
from .scoring import (
    FIGURES,
    BenchmarkScore,
    Difference,
    SequenceScore,
    Truth,
    difference,
    held_frames,
    read_truth,
    score_benchmark,
    score_sequence,
)

# So many of the sequences that were left out are named where none is left.
_TOLD = 5


class Entry(NamedTuple):
    """The results of one tracker on one benchmark."""

    label: str
    benchmark: str
    results: Results


class Row(NamedTuple):
    """One tracker on one benchmark."""

    label: str
    results: Results
    score: BenchmarkScore
    #: Tracked frames a second over all sequences; None where the times are not known.
    speed: float | None
    #: First figure, this tracker minus the first one of the table; None of the first one.
    gap: Difference | None
    #: What the running mean of its score is worth; None of results of other tools, or where there is nothing to tell.
    presence: Presence | None
    #: Of each sequence, in the order of `Comparison.names`.
    sequences: list[SequenceScore]


class _OfSequence(NamedTuple):
    """What one tracker's results of one sequence say."""

    score: SequenceScore
    speed: Speed | None
    #: The running means of its scores, and whether the target is held; None of results of other tools.
    certainty: tuple[NDArray[np.float64], NDArray[np.bool_]] | None


class Comparison(NamedTuple):
    """Several trackers on one benchmark."""

    benchmark: str
    title: str
    #: None: GOT-10k's own rule.
    protocol: Protocol | None
    #: Names of the figures; the first is what trackers are compared by.
    figures: tuple[str, ...]
    #: The sequences that all trackers have results of.
    names: list[str]
    #: All sequences of the benchmark.
    listed: int
    rows: list[Row]
    #: What was left out, a line each.
    notes: list[str]
    #: Of each attribute, the numbers of its sequences.
    attributes: dict[str, list[int]]
    #: Opens one of `names`.
    open_sequence: Callable[[int], VideoSequence]

    @property
    def rule(self) -> str:
        """Which frames count, for titles."""
        return self.protocol or "GOT-10k's rule"


def parse_entries(texts: Sequence[str], benchmark: str | None) -> list[Entry]:
    """The results that `[BENCHMARK:][LABEL=]FOLDER` name.

    Args:
        texts: one for each folder.
        benchmark: of the results that do not say; None: the one that all others are of.

    Raises:
        ConfigError: it is not known which benchmark results are of, or two trackers have the same label.
        DataError: a folder holds no results.

    """
    found = []
    for text in texts:
        name, label, folder = None, None, text
        before, colon, after = folder.partition(":")
        if colon and before in BENCHMARKS:
            name, folder = before, after
        before, equals, after = folder.partition("=")
        if equals and not Path(folder).exists():
            label, folder = before, after
        results = Results(Path(folder), label)
        found.append((name or (results.run or {}).get("benchmark"), results))
    stated = {name for name, _ in found if name is not None}
    default = benchmark or (stated.pop() if len(stated) == 1 else None)
    for name, results in found:
        if name is None and default is None:
            raise ConfigError(f"{results.folder}: results of which benchmark? Give --benchmark")
    entries = [Entry(results.label, name or str(default), results) for name, results in found]
    twice = [entry for i, entry in enumerate(entries) if entry[:2] in [other[:2] for other in entries[:i]]]
    if twice:
        raise ConfigError(f"two trackers are called {twice[0].label!r}: name them, LABEL={twice[0].results.folder}")
    for entry in entries:
        find_benchmark(entry.benchmark)
    return entries


def compare(
    name: str,
    entries: Sequence[Results],
    sequences: Sequence[VideoSequence],
    protocol: Protocol,
    *,
    attributes: Mapping[str, Sequence[str]] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Comparison:
    """Compares trackers on one benchmark, on the sequences that all of them have results of.

    One sequence is held in memory at a time.

    Args:
        name: of the benchmark.
        entries: results of each tracker; the first is what the others are compared with.
        sequences: of the benchmark.
        protocol: which frames count; GOT-10k has its own rule.
        attributes: names of the sequences that have each attribute.
        advance: called after each sequence.

    Raises:
        DataError: the truth is not public, or the trackers have no sequence in common that can be read.

    """
    benchmark = find_benchmark(name)
    for results in entries:
        if (protocol == "restarts") != is_restarted(results):
            ran = "with restarts" if is_restarted(results) else "in one pass"
            raise DataError(f"{results.folder}: was run {ran}, and {protocol} needs the other")
    if not benchmark.truth:
        raise DataError(f"{benchmark.title}: its truth is not public: send the results to its server (grm submit)")
    scored: list[list[SequenceScore]] = [[] for _ in entries]
    certainty: list[list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = [[] for _ in entries]
    numbers, notes = [], []
    lacking: dict[str, list[str]] = {results.label: [] for results in entries}
    totals = np.zeros((len(entries), 2))
    for number in range(len(sequences)):
        advance()
        try:
            sequence = sequences[number]
            known = [results.find(sequence.name, benchmark.prefix) for results in entries]
            read = []
            if None not in known:
                truth = read_truth(benchmark, sequence)
                read = [_read(of, str(found), truth, protocol) for of, found in zip(entries, known, strict=True)]
        except DataError as error:
            notes.append(f"left out: {error}")
            continue
        for results, found in zip(entries, known, strict=True):
            if found is None:
                lacking[results.label].append(sequence.name)
        if not read:
            continue
        numbers.append(number)
        for i, one in enumerate(read):
            scored[i].append(one.score)
            totals[i] += one.speed or (np.nan, np.nan)
            if one.certainty is not None:
                certainty[i].append(one.certainty)
    if not numbers:
        raise DataError(_without_sequences(benchmark, "all trackers", notes))
    figures = FIGURES["restarts" if protocol == "restarts" else benchmark.metric]
    rows = [
        Row(
            results.label,
            results,
            score_benchmark(of_tracker),
            float(frames / seconds) if seconds > 0 else None,
            difference(of_tracker, scored[0], figures[0]) if of_tracker is not scored[0] else None,
            presence([scores for scores, _ in certain], [held for _, held in certain]),
            of_tracker,
        )
        for results, of_tracker, certain, (frames, seconds) in zip(entries, scored, certainty, totals, strict=True)
    ]
    names = [score.name for score in scored[0]]
    return Comparison(
        benchmark=name,
        title=benchmark.title,
        protocol=None if benchmark.metric == "got10k" and protocol != "restarts" else protocol,
        figures=figures,
        names=names,
        listed=len(sequences),
        rows=rows,
        notes=[*notes, *(_note(label, missing) for label, missing in lacking.items() if missing)],
        attributes=_chosen(attributes or {}, names),
        open_sequence=lambda index: sequences[numbers[index]],
    )


class Tracked(NamedTuple):
    """A sequence that a tracker has results of."""

    #: Its number in the benchmark, and its name in the results.
    number: int
    name: str
    truth: Truth
    #: (N, 4) of the first repetition.
    boxes: Boxes
    #: (N,); None of results of other tools.
    scores: NDArray[np.float64] | None


def tracked_sequences(
    benchmark: Benchmark,
    results: Results,
    sequences: Sequence[VideoSequence],
    advance: Callable[[], object] = lambda: None,
    leave_out: Callable[[str], object] = lambda _: None,
) -> Iterator[Tracked]:
    """The sequences that there are results of, one in memory at a time.

    Args:
        benchmark: that the results are of.
        results: of one tracker.
        sequences: of the benchmark.
        advance: called after each sequence.
        leave_out: told of each that cannot be read, or whose results cannot.

    Raises:
        DataError: after the last, if there was none.

    """
    count, notes = 0, []
    for number in range(len(sequences)):
        try:
            sequence = sequences[number]
            if (name := results.find(sequence.name, benchmark.prefix)) is not None:
                truth = read_truth(benchmark, sequence)
                boxes, scores = results.first_boxes(name, truth.boxes), results.scores(name, len(truth.boxes))
                yield Tracked(number, name, truth, boxes, scores)
                count += 1
        except DataError as error:
            notes.append(f"left out: {error}")
            leave_out(notes[-1])
        advance()
    if not count:
        raise DataError(_without_sequences(benchmark, results.folder, notes))


def is_restarted(results: Results) -> bool:
    """Whether these are results of a run that shows a tracker its target again after each failure."""
    return (results.run or {}).get("identity", {}).get("protocol") == "restarts"


def attribute_scores(comparison: Comparison) -> dict[str, list[BenchmarkScore]]:
    """The figures of each tracker on the sequences of each attribute of which a frame counts."""
    return {
        attribute: [score_benchmark([row.sequences[i] for i in chosen]) for row in comparison.rows]
        for attribute, chosen in comparison.attributes.items()
        if any(comparison.rows[0].sequences[i].weight for i in chosen)
    }


def largest_differences(comparison: Comparison, row: Row) -> list[tuple[int, float]]:
    """Number and difference of each sequence, by how much a tracker differs there from the first, the largest first."""
    figure = comparison.figures[0]
    pairs = zip(row.sequences, comparison.rows[0].sequences, strict=True)
    gaps = [(i, a.figures[figure] - b.figures[figure]) for i, (a, b) in enumerate(pairs)]
    return sorted(gaps, key=lambda gap: (-abs(gap[1]), gap[0]))


def open_results_benchmark(
    name: str, entries: Sequence[Results], root: Path | None, names: Path | None, *, whole: bool = False
) -> Sequence[VideoSequence]:
    """The sequences that results are of: where the user says, or else where our run found them.

    Args:
        name: of the benchmark.
        entries: the results.
        root: of the data set; None: as run.json says.
        names: list of the sequences; None: as run.json says.
        whole: take all sequences of the benchmark, whatever list a run had.

    Raises:
        ConfigError: neither says where.
        DataError: as of `open_benchmark`.

    """
    runs = [results.run for results in entries if results.run is not None]
    if name == SYNTHETIC:
        if not runs:
            raise ConfigError("synthetic: expected results of a run of grm evaluate, which say how they were rendered")
        settings = [_rendering_of(results) for results in entries if results.run is not None]
        if settings != settings[:1] * len(runs):
            raise ConfigError("synthetic: the runs are of sequences of different difficulty")
        # Those of a shorter run are the first of a longer one's.
        limit = max(run["limit"] for run in runs)
        return open_benchmark(name, None, synthetic=settings[0], limit=limit)
    root = results_root(entries, root)
    if root is None:
        raise ConfigError(f"{name}: results of other tools do not say where the data set is: give --root")
    listed = [Path(run["names"]) for run in runs if run.get("names") and not whole]
    return open_benchmark(name, root, names=names or (listed[0] if listed else None))


def _rendering_of(results: Results) -> SyntheticConfig:
    """How the sequences of a run were rendered."""
    known = (results.run or {})["identity"].get("synthetic")
    if known is None:
        raise DataError(f"{results.folder}: expected results of rendered sequences")
    return parse_config({"data": {"synthetic": known}}, name=f"{results.folder / RUN}").data.synthetic


def results_root(entries: Sequence[Results], root: Path | None) -> Path | None:
    """Where a data set is: where the user says, or else where one of our runs found it, if that is known."""
    known = [results.run["root"] for results in entries if results.run is not None and results.run.get("root")]
    return root or (Path(known[0]) if known else None)


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Attributes of sequences from a file with lines `NAME,ATTRIBUTE,ATTRIBUTE,...`.

    Raises:
        DataError: it cannot be read, or is something else.

    """
    found: dict[str, list[str]] = {}
    for line in read_lines(path):
        name, *attributes = (part.strip() for part in line.split(","))
        if not attributes or not all(attributes):
            raise DataError(f"{path}: expected NAME,ATTRIBUTE,... in every line, got {line!r}")
        for attribute in attributes:
            found.setdefault(attribute, []).append(name)
    return found


def _read(results: Results, name: str, truth: Truth, protocol: Protocol) -> _OfSequence:
    boxes, count = results.boxes_of(name, truth.boxes), len(truth.boxes)
    try:
        score = score_sequence(truth, boxes, protocol)
    except DataError as error:
        raise DataError(f"{results.folder}: {error}") from None
    scores = results.scores(name, count)
    certainty = None if scores is None else (running_means(scores), held_frames(boxes[0][:count], truth))
    return _OfSequence(score, results.speed(name), certainty)


def _without_sequences(benchmark: Benchmark, who: object, notes: list[str]) -> str:
    told = "".join(f"; {note}" for note in notes[:_TOLD])
    return f"{benchmark.title}: there is no sequence with a truth that {who} can be compared on{told}"


def _note(label: str, missing: list[str]) -> str:
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"{label} has no results of {len(missing)} sequences, which are left out for all: {shown}"


def _chosen(attributes: Mapping[str, Sequence[str]], names: list[str]) -> dict[str, list[int]]:
    chosen = {}
    for attribute, having in sorted(attributes.items()):
        known = set(having)
        chosen[attribute] = [i for i, name in enumerate(names) if name in known]
    return {attribute: numbers for attribute, numbers in chosen.items() if numbers}
