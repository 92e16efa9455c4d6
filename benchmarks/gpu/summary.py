"""What follows from the rows of a GPU's record: the record itself, floors, targets, and what to change first."""

from collections.abc import Callable, Iterable

from benchmarks.gpu.schedule import ABSENT, CUT, OK
from benchmarks.tables import BACKWARD, FORWARD, PASSES, POLICY, cells, ours_of

#: Lines of the summary.
LINES = 22
#: What a record has rows of, besides steps, rates and the machine.
_TABLES = ("agreement", "measurements", "tracker", "training")


def with_floors(row: dict, rates: dict[str, float]) -> dict:
    """A measurement with the seconds that no implementation can beat, at rates of the same run, and what it reaches."""
    if row.get("table") != "measurements" or "seconds" not in row:
        return row
    scales = {
        "memory": ("bytes", rates.get("memory")),
        "matrix": ("operations", rates.get(f"torch.{row['dtype']}")),
        "exponentials": ("exponentials", rates.get("exponentials")),
    }
    floors = {name: row[work] / rate for name, (work, rate) in scales.items() if rate}
    if not floors:
        return row
    limit = max(floors, key=lambda name: floors[name])
    return {**row, "floors": floors, "limited_by": limit, "share_of_floor": floors[limit] / row["seconds"]}


def rates_of(rows: Iterable[dict]) -> dict[str, float]:
    """The rates among the rows."""
    known = ("table", "step", "item")
    return {key: rate for row in rows if row["table"] == "rates" for key, rate in row.items() if key not in known}


def assemble(rows: list[dict], left: list[str], date: str, dry: bool) -> dict:
    """The record of the rows; of an item that was measured twice the last time counts."""
    record: dict = {"kind": "gpu", "date": date, "dry": dry, "machine": {}, "rates": rates_of(rows), "steps": {}}
    tables: dict[str, dict[str, dict]] = {table: {} for table in _TABLES}
    words = None
    for index, row in enumerate(rows):
        content = {key: value for key, value in row.items() if key not in ("table", "step", "item")}
        if row["table"] == "machine":
            record["machine"] = content
        elif row["table"] == "steps":
            record["steps"][row["step"]] = {"ok": row["status"] in (OK, ABSENT), **content}
        elif row["table"] == "conformance":
            words = row.get("words")
        elif row["table"] in tables:
            tables[row["table"]][f"{row['step']} {row.get('item', index)}"] = content
    if words and "conformance" in record["steps"]:
        record["steps"]["conformance"]["result"] = words
    record["complete"] = not left and not any(step["status"] == CUT for step in record["steps"].values())
    return record | {"left": left} | {table: list(found.values()) for table, found in tables.items()}


def lines(record: dict) -> list[str]:
    """What to change, in twenty lines at most, the most important first."""
    steps = record["steps"]
    m = record["machine"]
    wrong = {name: step for name, step in steps.items() if not step["ok"] and name not in record["left"]}
    failed = [f"{name} ({step.get('error', '')[:80]})" for name, step in wrong.items()]
    declined = {m["implementation"] for m in record["measurements"] if "declined" in m}
    declined = {name for name in declined if name.startswith("ours")}
    done = sum(step["ok"] for step in steps.values())
    result = [
        f"{m.get('device')}, {m.get('capability')}, torch {m.get('torch')}, Triton {m.get('triton')}: {done} of "
        f"{len(steps)} steps ok, {len(record['left'])} left for the next call"
        + (f" (first: {record['left'][0]})" if record["left"] else ""),
        *(f"FAILED {name}" for name in failed[:2]),
        *([f"... and {len(failed) - 2} more steps that failed"] if len(failed) > 2 else []),
        *([f"declined some workloads: {', '.join(sorted(declined))}"] if declined else []),
        f"grm_kernels/cuda.py: FASTER = {faster(record)}",
        *(f"target {name}: {verdict}" for name, verdict in targets(record)),
        *(furthest(record, run) for run in PASSES),
    ]
    return result[:LINES]


# ---- which backend is faster ----


def faster(record: dict) -> str:
    """The table of grm_kernels/cuda.py: where the CUDA kernels beat Triton's at every batch size and share measured.

    The backward pass is what a call with gradients takes beyond one without; with and without the policy's gradient.
    """
    capability = tuple(int(part) for part in f"{record['machine'].get('capability', '0.0')}".split("."))
    table = cells(record)
    found = []
    for pass_ in ("forward", "backward"):
        keys = {(dtype, run, tokens) for dtype, run, tokens, *_ in table if (run == FORWARD) == (pass_ == "forward")}
        for tokens in sorted({tokens for _, _, tokens in keys}):
            pairs = [
                pair
                for key in table
                if key[2] == tokens and (key[1] == FORWARD) == (pass_ == "forward")
                if (pair := _pair(table, key))
            ]
            if pairs and all(cuda < triton for cuda, triton in pairs):
                d = next(row["channels"] for row in record["measurements"] if row["tokens"] == tokens)
                found.append(f'({capability}, "{pass_}", {d}, {tokens})')
    return f"frozenset({{{', '.join(found)}}})" if found else "frozenset()"


def _pair(table: dict, key: tuple) -> tuple[float, float] | None:
    """Seconds of the CUDA and of the Triton kernels in the pass itself."""
    times = []
    for name in ("ours, cuda", "ours, triton"):
        if name not in table[key]:
            return None
        seconds = table[key][name]["seconds"]
        if key[1] != FORWARD:
            forward = table.get((key[0], FORWARD, *key[2:]), {}).get(name)
            if forward is None:
                return None
            seconds -= forward["seconds"]
        times.append(seconds)
    return times[0], times[1]


# ---- targets ----


def _dense(by_name: dict[str, dict]) -> float | None:
    return min((m["seconds"] for name, m in by_name.items() if name.startswith("SDPA, dense")), default=None)


def _named(name: str) -> Callable[[dict[str, dict]], float | None]:
    return lambda by_name: by_name[name]["seconds"] if name in by_name else None


#: What was to be reached by the operator in 16 bits at B >= 32: pass, share of S, against what, ratio.
_OPERATOR = (
    ("forward, no S, over the fastest dense SDPA", FORWARD, 0.0, _dense, 1.1),
    ("forward, all S, over the fastest dense SDPA", FORWARD, 1.0, _dense, 1.5),
    ("with the policy's gradient, over dense SDPA without", POLICY, 0.5, _dense, 1.0),
    ("forward over masked", FORWARD, 0.5, _named("masked (paper)"), 10),
    ("with the policy's gradient, over masked", POLICY, 0.5, _named("masked (paper)"), 10),
    # Its mask is made in the call, which no CUDA graph can hold: ours is replayed and it is launched piece by piece.
    ("forward over FlexAttention + mask", FORWARD, 0.5, _named("FlexAttention + mask"), 5),
    ("backward over FlexAttention + mask", BACKWARD, 0.5, _named("FlexAttention + mask"), 5),
    # Both replayed, and the mask costs nothing.
    ("forward over FlexAttention, mask at hand", FORWARD, 0.5, _named("FlexAttention, mask at hand"), 1),
    ("backward over FlexAttention, mask at hand", BACKWARD, 0.5, _named("FlexAttention, mask at hand"), 1),
)


def targets(record: dict) -> list[tuple[str, str]]:
    """What was to be reached, and whether it is; the worst case counts."""
    table = cells(record)
    found = []
    for name, run, share, baseline, goal in _OPERATOR:
        ratios = {}
        for key, by_name in table.items():
            dtype, its_run, tokens, batch, its_share = key
            ours, other = ours_of(by_name), baseline(by_name)
            large = batch >= 32 or record["dry"]
            if (its_run, its_share) == (run, share) and dtype != "float32" and large and ours and other:
                ratios[f"N = {tokens}, B = {batch}"] = other / ours["seconds"]
        found.append((name, _verdict(ratios, goal)))
    frames = {row["mode"]: row["forms"] for row in record["tracker"] if row.get("targets") == 1 and "forms" in row}
    two_stream = {mode: _fps_over(forms, "fused", "two-stream") for mode, forms in frames.items()}
    fixed = {mode: _fps_over(forms, "layers fixed", "two-stream") for mode, forms in frames.items()}
    graphs = [mode for mode in frames if mode != "eager"]
    found.append(("tracker, fps over two-stream", _verdict({k: two_stream[k] for k in graphs}, 0.97)))
    found.append(("tracker, layers fixed, over two-stream", _verdict({k: fixed[k] for k in graphs}, 0.99)))
    launches = frames.get("eager", {}).get("fused", {}).get("launches")
    found.append(("tracker, launches a frame", "not measured" if launches is None else _most(launches, 130)))
    growth = _growth(record)
    found.append(("memory of forward and backward", "not measured" if growth is None else growth))
    return found


def _fps_over(forms: dict, form: str, other: str) -> float:
    return forms[other]["seconds"] / forms[form]["seconds"]


def _verdict(ratios: dict[str, float], goal: float) -> str:
    if not ratios:
        return "not measured"
    worst = min(ratios, key=lambda where: ratios[where])
    met = "met" if ratios[worst] >= goal else "MISSED"
    return f"{met}, {ratios[worst]:.2f} of {goal:g} at {worst}"


def _most(value: int, limit: int) -> str:
    return f"{'met' if value <= limit else 'MISSED'}, {value} of at most {limit}"


def _growth(record: dict) -> str | None:
    """Whether the most memory that a call of ours with all gradients holds grows with N and not with its square."""
    ours = [m for m in record["measurements"] if m["implementation"].startswith("ours") and m.get("peak_bytes")]
    ours = [m for m in ours if m["run"] == POLICY and m["dtype"] != "float32" and m["batch"] == 32]
    by_tokens = {m["tokens"]: m["peak_bytes"] for m in ours}
    if len(by_tokens) < 2:
        return None
    short, long = min(by_tokens), max(by_tokens)
    growth, ratio = by_tokens[long] / by_tokens[short], long / short
    met = "met" if growth < (ratio + ratio**2) / 2 else "MISSED"
    return f"{met}, {growth:.2f} times for {ratio:.2f} times the tokens"


def furthest(record: dict, run: str) -> str:
    """The kernel of ours that is furthest from its floor in a pass, at a batch size that fills the GPU."""
    ours = [m for m in record["measurements"] if m["implementation"].startswith("ours") and "share_of_floor" in m]
    ours = [m for m in ours if m["run"] == run and m["dtype"] != "float32" and (m["batch"] >= 32 or record["dry"])]
    if not ours:
        return f"furthest from its floor, {run}: not measured"
    worst = min(ours, key=lambda m: m["share_of_floor"])
    return (
        f"furthest from its floor, {run}: {worst['implementation']}, N = {worst['tokens']}, B = {worst['batch']}, "
        f"S {worst['share_s']:g}: {worst['seconds'] * 1e6:.0f} us, {worst['share_of_floor']:.0%} of the "
        f"{worst['limited_by']} floor"
    )
