"""The rows of the paper's Tables 4 and 5 and of its appendix C, as configurations, and what was published of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ..config import ModelConfig
from ..errors import ConfigError

#: What an order is of: the benchmark's first figure, or frames a second.
Figure = Literal["accuracy", "speed"]
#: Names of figures of the paper: in percent, and in frames a second.
ACCURACY, SPEED = "accuracy", "frames/s"


class Row(NamedTuple):
    """One row of a table."""

    #: Of files, and in --rows and --figures.
    name: str
    #: In the table.
    label: str
    #: Overrides of the configuration that all rows share.
    overrides: tuple[str, ...]
    #: What the paper gives for it, by `ACCURACY` and `SPEED`, so far as it is known here.
    paper: Mapping[str, float] = {}


class Order(NamedTuple):
    """What was published: one row is better than another."""

    better: str
    worse: str
    figure: Figure
    source: str


class Table(NamedTuple):
    """Rows that are trained, evaluated and timed alike. Differences are to the one called `reference`."""

    title: str
    rows: tuple[Row, ...]
    reference: str
    orders: tuple[Order, ...] = ()

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


# Of the published code's README: GOT-10k's test split, one-shot protocol; an RTX 3090.
_PUBLISHED = {ACCURACY: 73.4, SPEED: 45.0}
# Neither of them samples its division.
_NOT_SAMPLED = "model.division.gradient_limit=null"


def table4(model: ModelConfig) -> Table:
    """How template and search region meet."""
    abstract, speeds = "abstract", "published speeds"
    return Table(
        "Table 4: how template and search region are related",
        (
            Row("two_stream", "#1 two-stream", ("model.division.variant=two_stream",), {SPEED: 60.0}),
            Row("one_stream", "#2 one-stream", ("model.division.variant=one_stream",), {SPEED: 51.0}),
            Row("ts", "#3 S or T", ("model.division.variant=ts",)),
            Row("tsa", "#4 S, T or A", ("model.division.variant=tsa",)),
            Row("sa", "#5 S or A (GRM)", ("model.division.variant=sa",), _PUBLISHED),
        ),
        "sa",
        (
            Order("sa", "two_stream", "accuracy", abstract),
            Order("sa", "one_stream", "accuracy", abstract),
            Order("two_stream", "one_stream", "speed", speeds),
            Order("one_stream", "sa", "speed", speeds),
        ),
    )


def table5(model: ModelConfig) -> Table:
    """Which layers divide, and how the template is summed up. The sets of layers are ours, as the weights below."""
    depth = model.encoder.depth
    return Table(
        "Table 5: where the division is made, and from what",
        (
            Row("grm", "all layers but the first, maximum (GRM)", (), _PUBLISHED),
            Row("all_layers", "all layers", (f"model.division.layers={list(range(1, depth + 1))}",)),
            Row("second_half", "second half", (f"model.division.layers={list(range(depth // 2 + 1, depth + 1))}",)),
            Row("every_other", "every other layer", (f"model.division.layers={list(range(2, depth + 1, 2))}",)),
            Row("average", "average of the template", ("model.division.pooling=average",)),
        ),
        "grm",
    )


def appendix_c(model: ModelConfig) -> Table:
    """What else the division could be. Weights, ratio, band and regions are ours: the paper's are not known here."""
    region = next((side for side in (4, 3, 2, 5) if model.search_side % side == 0), model.search_side)
    supervised, soft = "training.loss.division=1", "model.division.soft=true"
    ranked = ("model.division.variant=ranked", "model.division.ratio=0.25", "model.division.band=0.1")
    return Table(
        "Appendix C: other divisions",
        (
            Row("grm", "GRM", (), _PUBLISHED),
            Row("supervised", "C.1 supervised as well", (supervised,)),
            Row("ranked", "C.1 ranked, supervised only", (*ranked, supervised, _NOT_SAMPLED)),
            Row("entropy", "C.2 entropy", ("training.loss.entropy=0.02",)),
            Row("soft", "C.3 soft", (soft, _NOT_SAMPLED)),
            Row("regions", f"C.3 soft, regions of {region}", (soft, f"model.division.region={region}", _NOT_SAMPLED)),
        ),
        "grm",
    )


#: By the names that the command takes.
TABLES = {"table4": table4, "table5": table5, "appendix_c": appendix_c}


def choose_rows(table: Table, names: list[str]) -> Table:
    """The table with some of its rows, and with its reference.

    Raises:
        ConfigError: there is no such row.

    """
    known = [row.name for row in table.rows]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--row: expected {', '.join(known)}, got {', '.join(unknown)}")
    chosen = {*(names or known), table.reference}
    orders = tuple(order for order in table.orders if {order.better, order.worse} <= chosen)
    return table._replace(rows=tuple(row for row in table.rows if row.name in chosen), orders=orders)


def with_figures(table: Table, path: Path) -> Table:
    """The table with figures of the paper from a YAML file, `ROW: {accuracy: 70.1, frames/s: 40}`.

    Each two rows that have the same figure make an order.

    Raises:
        ConfigError: not such a file.

    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    known = {row.name for row in table.rows}
    if not isinstance(values, dict) or not all(
        name in known and isinstance(of, dict) and all(_is_figure(*item) for item in of.items())
        for name, of in values.items()
    ):
        raise ConfigError(
            f"{path}: expected lines `ROW: {{{ACCURACY}: 70.1, {SPEED}: 40}}` with rows of {', '.join(sorted(known))}"
        )
    rows = tuple(row._replace(paper={**row.paper, **values.get(row.name, {})}) for row in table.rows)
    figures: dict[str, Figure] = {ACCURACY: "accuracy", SPEED: "speed"}
    found = [
        Order(one.name, other.name, figure, path.name)
        for name, figure in figures.items()
        for one in rows
        for other in rows
        if one.paper.get(name, 0) > other.paper.get(name, float("inf"))
    ]
    stated = {order[:3] for order in table.orders}
    return table._replace(rows=rows, orders=(*table.orders, *(order for order in found if order[:3] not in stated)))


def _is_figure(name: Any, value: Any) -> bool:
    return name in (ACCURACY, SPEED) and isinstance(value, int | float) and not isinstance(value, bool) and value > 0
