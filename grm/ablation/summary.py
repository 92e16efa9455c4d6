"""What an ablation found: figures and their spread, differences and their error, which published orders appear."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grm_kernels import Category

from ..evaluation.benchmarks import find_benchmark
from ..evaluation.rendering import HEADINGS
from ..evaluation.report import Comparison, compare
from ..evaluation.results import Results
from ..evaluation.scoring import Difference, SequenceScore, difference, student
from ..evaluation.speed import FormSpeed
from .plan import Plan
from .tables import ACCURACY, SPEED, Order, Row


class RowResult(NamedTuple):
    """What became of a row."""

    row: Row
    #: Of each figure of the benchmark, in [0, 1]: its value with every seed.
    figures: dict[str, list[float]]
    #: First figure, this row minus the reference; None of the reference.
    gap: Difference | None
    speed: FormSpeed


class OrderResult(NamedTuple):
    """A published order, and what was found: the difference of the better row minus the worse one."""

    order: Order
    #: Of accuracy in [-1, 1]; of speed in frames a second.
    difference: Difference

    @property
    def verdict(self) -> str:
        """Whether it appears, "appears", "reversed" or "not told apart"."""
        if self.difference.is_noise:
            return "not told apart"
        return "appears" if self.difference.mean > 0 else "reversed"


class Summary(NamedTuple):
    """An ablation's table."""

    plan: Plan
    comparison: Comparison
    rows: list[RowResult]
    orders: list[OrderResult]
    #: The machine of the speeds.
    where: str

    @property
    def figure(self) -> str:
        """The figure that rows are compared by."""
        return self.comparison.figures[0]


def summarize(plan: Plan, speeds: Mapping[str, Any]) -> Summary:
    """Scores the results of all runs and compares the rows.

    Args:
        plan: whose runs are all evaluated.
        speeds: as of `grm.ablation.running.measure_speed`.

    Raises:
        DataError: results are missing or broken.

    """
    results = [Results(run.results) for run in plan.runs]
    protocol = find_benchmark(plan.benchmark).protocol
    comparison = compare(plan.benchmark, results, plan.sequences(), protocol)
    figure = comparison.figures[0]
    of_run = {run.name: row.sequences for run, row in zip(plan.runs, comparison.rows, strict=True)}
    scores = {run.name: row.score for run, row in zip(plan.runs, comparison.rows, strict=True)}
    each = {row.name: [of_run[run.name] for run in plan.of_row(row)] for row in plan.table.rows}
    rows = [
        RowResult(
            row,
            {name: [scores[run.name].figures[name] for run in plan.of_row(row)] for name in comparison.figures},
            None
            if row.name == plan.table.reference
            else seeded_difference(each[row.name], each[plan.table.reference], figure),
            speeds["rows"][row.name],
        )
        for row in plan.table.rows
    ]
    orders = []
    for order in plan.table.orders:
        if order.figure == "accuracy":
            found = seeded_difference(each[order.better], each[order.worse], figure)
        else:
            found = speed_difference(*(speeds["rows"][name] for name in (order.better, order.worse)))
        orders.append(OrderResult(order, found))
    return Summary(plan, comparison, rows, orders, speeds["where"])


def seeded_difference(
    first: Sequence[Sequence[SequenceScore]], second: Sequence[Sequence[SequenceScore]], figure: str
) -> Difference:
    """How much one row is better than another: the mean over seeds and sequences, both paired.

    The error has two parts, of independent causes: over sequences, that of the mean over seeds; and over seeds, that of
    the mean over sequences. Of one seed the second is not known, and left out. A difference means something where it
    exceeds both, each by Student's t: of two seeds, 12.7 errors. Of equal rows of 40 sequences with two to five seeds,
    that tells 2 to 6% apart; with the normal distribution's 1.96 of the whole error it is up to 25%.

    Args:
        first: of each seed, the scores of all sequences.
        second: of the same seeds and sequences.
        figure: name of a figure.

    """
    pairs = list(zip(first, second, strict=True))
    over_sequences = difference(_mean_over_seeds(first, figure), _mean_over_seeds(second, figure), figure)
    if len(pairs) < 2:
        return over_sequences
    means = [difference(a, b, figure).mean for a, b in pairs]
    over_seeds = statistics.stdev(means) / math.sqrt(len(means))
    margin = max(over_sequences.margin, student(len(means) - 1) * over_seeds)
    return Difference(over_sequences.mean, math.hypot(over_sequences.error, over_seeds), margin)


def speed_difference(first: FormSpeed, second: FormSpeed) -> Difference:
    """Frames a second of one row minus another's; the error is that of the networks' medians."""
    fps = [1 / speed.total for speed in (first, second)]
    errors = [f * f * speed.model_error for f, speed in zip(fps, (first, second), strict=True)]
    error = math.hypot(*errors)
    return Difference(fps[0] - fps[1], error, student() * error)


def _mean_over_seeds(scores: Sequence[Sequence[SequenceScore]], figure: str) -> list[SequenceScore]:
    return [
        of_sequence[0]._replace(figures={figure: statistics.fmean(score.figures[figure] for score in of_sequence)})
        for of_sequence in zip(*scores, strict=True)
    ]


def headings(summary: Summary) -> list[str]:
    """Of the columns of `cells`."""
    figures = [HEADINGS.get(name, name) for name in summary.comparison.figures]
    return [
        "row", *figures, f"{summary.figure} - {summary.plan.table.reference}",
        "S", "frames/s", "paper", "paper frames/s",
    ]  # fmt: skip


def cells(summary: Summary) -> list[list[str]]:
    """A line for each row: figures in percent, means over the seeds with their standard deviation."""
    return [
        [
            result.row.label,
            *(_spread(values) for values in result.figures.values()),
            "" if result.gap is None else _gap(result.gap),
            f"{result.speed.shares[Category.S]:.0%}",
            f"{1 / result.speed.total:.1f}",
            *(f"{result.row.paper[name]:g}" if name in result.row.paper else "-" for name in (ACCURACY, SPEED)),
        ]
        for result in summary.rows
    ]


def notes(summary: Summary) -> list[str]:
    """What the table does not say: of what it is, which orders appear, what its columns mean."""
    plan, comparison = summary.plan, summary.comparison
    training = plan.runs[0].config
    seeds = len(plan.runs) // len(plan.table.rows)
    pairs = training.data.samples_per_epoch * training.training.epochs
    begins = f" from {training.training.pretrained}" if training.training.pretrained else ""
    labels = {row.name: row.label for row in plan.table.rows}
    found = [
        f"{result.verdict}: {labels[result.order.better]} over {labels[result.order.worse]}, {result.order.figure} "
        f"({result.order.source}): {_order_gap(result)}"
        for result in summary.orders
    ]
    spread = "± of a figure: standard deviation over seeds" if seeds > 1 else "one seed: no spread"
    over_seeds = f" and {student(seeds - 1):.1f} over the {seeds} seeds" if seeds > 1 else ""
    return [
        *(found or ["no order of these rows is known here; --figures gives the paper's"]),
        f"{comparison.title}, {comparison.rule}, {len(comparison.names)} sequences; {seeds} seed(s), {pairs} pairs "
        f"each{begins}",
        f"{spread}; ± of a difference: its standard error, paired over sequences{' and seeds' if seeds > 1 else ''}",
        f"(noise), not told apart: not above {student(max(1, len(comparison.names) - 1)):.1f} standard errors over the "
        f"sequences{over_seeds}, what Student's t has for 95%",
        f"S: share of the search tokens of all layers that are kept away from the template. Speeds: {summary.where}",
        "paper: AO on GOT-10k's test split, one-shot, and an RTX 3090; - where it is not known here (--figures)",
    ]


def markdown(summary: Summary) -> str:
    """The table and its notes."""
    lines = [headings(summary), ["---"] * len(headings(summary)), *cells(summary)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"### {summary.plan.table.title}\n\n{table}\n\n" + "".join(f"- {note}\n" for note in notes(summary))


def json_values(summary: Summary) -> dict[str, Any]:
    """Everything, unrounded."""
    return {
        "table": summary.plan.table.title,
        "benchmark": summary.plan.benchmark,
        "sequences": summary.comparison.names,
        "where": summary.where,
        "rows": {
            result.row.name: {
                "label": result.row.label,
                "overrides": list(result.row.overrides),
                "figures": result.figures,
                "difference": None if result.gap is None else _known(result.gap),
                "speed": {**result.speed._asdict(), "total": result.speed.total},
                "paper": dict(result.row.paper),
            }
            for result in summary.rows
        },
        "orders": [
            {**result.order._asdict(), **_known(result.difference), "verdict": result.verdict}
            for result in summary.orders
        ],
    }


def _known(gap: Difference) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in gap._asdict().items()}


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _gap(gap: Difference) -> str:
    error = "?" if math.isnan(gap.error) else f"{100 * gap.error:.1f}"
    return f"{100 * gap.mean:+.1f} ± {error}" + (" (noise)" if gap.is_noise else "")


def _order_gap(result: OrderResult) -> str:
    if result.order.figure == "accuracy":
        return _gap(result.difference)
    return f"{result.difference.mean:+.1f} ± {result.difference.error:.1f} frames/s"
