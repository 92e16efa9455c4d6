"""What an ablation is made of: its runs, what they share, and the folder that holds them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, SyntheticConfig, load_config
from ..data import rendering
from ..data.sequence import Sequences
from ..errors import ConfigError, DataError
from ..evaluation.benchmarks import SYNTHETIC, find_benchmark, open_benchmark
from ..files import write_text
from ..weights import WEIGHTS, find_weights
from .tables import Row, Table

#: In the folder of an ablation.
PLAN_FILE, SPEED_FILE = "ablation.json", "speed.json"
_RUNS, _RESULTS = "runs", "results"


class Budget(NamedTuple):
    """What all rows have in common, where the user says nothing else."""

    #: Preset that the rows are overrides of.
    preset: str
    overrides: tuple[str, ...]
    #: Pairs of all runs together; None: what the preset says, in each.
    pairs: int | None
    seeds: int
    #: Weights whose encoder and head every run begins with; None: what the preset says.
    weights: str | None
    benchmark: str
    #: Sequences of the benchmark; None: all.
    limit: int | None


#: Rendered sequences that rows are evaluated on, where the user says nothing else.
SYNTHETIC_LIMIT = 40
# The rates of the shipped weights' own training are for new ones. Of its options, the entropy is a row of appendix C.
_SMALL = (
    "training.learning_rate=5e-4", "training.encoder_learning_rate=3e-4", "training.warmup=20",
    "training.loss.entropy=0", "training.checkpoint_every=50",
)  # fmt: skip
BUDGETS = {
    "small": Budget("synthetic_tiny", _SMALL, 128_000, 2, "tiny", SYNTHETIC, SYNTHETIC_LIMIT),
    "full": Budget("grm_b256_got", (), None, 1, None, "got10k-val", None),
}


class Run(NamedTuple):
    """One training of one row."""

    row: Row
    seed: int
    config: Config
    #: Of its checkpoint and weights.
    folder: Path
    #: Of what its tracker says of the benchmark.
    results: Path

    @property
    def name(self) -> str:
        """Names it in messages and tables."""
        return f"{self.row.name}-{self.seed}"


class Plan(NamedTuple):
    """An ablation."""

    table: Table
    runs: list[Run]
    folder: Path
    benchmark: str
    root: Path | None
    limit: int | None

    def of_row(self, row: Row) -> list[Run]:
        """The runs of a row, one for each seed."""
        return [run for run in self.runs if run.row.name == row.name]

    @property
    def rendered(self) -> SyntheticConfig | None:
        """How the sequences of the benchmark are rendered; None of others."""
        return rendering(self.runs[0].config) if self.benchmark == SYNTHETIC else None

    def sequences(self) -> Sequences[Any]:
        """Those of the benchmark; errors as of `open_benchmark`."""
        return open_benchmark(self.benchmark, self.root, limit=self.limit, synthetic=self.rendered)


def make_plan(
    table: Table,
    budget: Budget,
    folder: Path,
    *,
    pairs: int | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    root: Path | None = None,
) -> Plan:
    """The runs of an ablation, their configurations checked.

    Args:
        table: what is compared.
        budget: what they share.
        folder: of the ablation.
        pairs: of each run; None: the budget's share of one.
        preset: in place of the budget's, or a YAML file.
        overrides: for all rows, after the budget's.
        root: of the benchmark's data set; None: as the configuration has it in `data.held_out`.

    Raises:
        ConfigError: a configuration is not valid, the benchmark has no public truth, or there are no such weights.

    """
    if not find_benchmark(budget.benchmark).truth:
        raise ConfigError(f"--benchmark: the truth of {budget.benchmark} is not public; take another")
    shared = [*budget.overrides, "training.evaluate_every=0"]
    if budget.weights is not None:
        if not find_weights(budget.weights).is_file():
            raise ConfigError(f"--weights {budget.weights}: no such file; shipped weights: {', '.join(WEIGHTS)}")
        shared += [f"training.pretrained={json.dumps(budget.weights)}", "training.new_division=true"]
    if pairs is None and budget.pairs is not None:
        pairs = budget.pairs // (len(table.rows) * budget.seeds)
    if pairs is not None:
        shared += [f"data.samples_per_epoch={pairs}", "training.epochs=1"]
    runs = []
    for row in table.rows:
        for seed in range(budget.seeds):
            wanted = [*shared, f"training.seed={seed}", *overrides, *row.overrides]
            name = f"{row.name}-{seed}"
            config = load_config(preset or budget.preset, wanted)
            if config.training.seed != seed:
                raise ConfigError(
                    f"training.seed: the runs of a row have their own, from 0 to {budget.seeds - 1} (--seeds)"
                )
            runs.append(Run(row, seed, config, folder / _RUNS / name, folder / _RESULTS / name))
    if root is None and budget.benchmark != SYNTHETIC:
        root = _held_out_root(runs[0].config, budget.benchmark)
    return Plan(table, runs, folder, budget.benchmark, root, budget.limit)


def _held_out_root(config: Config, benchmark: str) -> Path:
    """Where the configuration has the data set of a benchmark."""
    kind = benchmark.partition("-")[0]
    found = [d.root for d in config.data.held_out.values() if d.kind == kind and d.root is not None]
    if not found:
        raise ConfigError(f"{benchmark}: give --root, the folder of its data set")
    return config.data.root / found[0]


def settle(plan: Plan, *, write: bool) -> None:
    """Makes the folder this ablation's, or finds that it is.

    Args:
        plan: the ablation.
        write: whether this process writes.

    Raises:
        DataError: the folder holds another ablation; names the runs that differ.

    """
    path = plan.folder / PLAN_FILE
    runs = {run.name: run.config.model_dump(mode="json") for run in plan.runs}
    values = {"benchmark": plan.benchmark, "limit": plan.limit, "runs": runs}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if known is not None and known != values:
        before = known.get("runs", {}) if isinstance(known, dict) else {}
        other = [name for name in sorted({*before, *runs}) if before.get(name) != runs.get(name)]
        raise DataError(
            f"{plan.folder}: holds another ablation: {', '.join(other) or 'the benchmark'} differ; give another folder"
        )
    if known is None and write:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values, indent=1) + "\n")
