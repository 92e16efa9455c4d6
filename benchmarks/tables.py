"""Tables and captions of every kind of record, as `benchmarks.record` prints them and puts them into documents.

What a table says follows from its record alone, so that a document can be compared with the records.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

#: Passes, as records name them.
FORWARD, BACKWARD, POLICY = "forward", "forward + backward", "forward + backward + policy gradient"
PASSES = (FORWARD, BACKWARD, POLICY)

#: Forms of the tracker that compute what the fused one does.
_SAME_ATTENTION = ("masked", "separate")
NO_GPU = (
    "No record yet: neither the kernels nor `python -m benchmarks.gpu_record` have run on a GPU, and nothing is "
    "claimed about speed there."
)


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: list[str]
    rows: list[list[str]]
    title: str = ""

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:,.0f} ms"


def times(ratio: float | None) -> str:
    """A ratio, or that there is none."""
    return "n/a" if ratio is None else f"{ratio:.2f}x"


def frames(seconds: float, targets: int = 1) -> str:
    """The time of a frame, frames a second, and of several targets also targets a second."""
    many = "" if targets == 1 else f", {targets / seconds:.3g} targets/s"
    return f"{milliseconds(seconds)} ({1 / seconds:.3g} fps{many})"


def machine_of(record: dict) -> str:
    """The processor or GPU, and what ran on it."""
    m = record["machine"]
    if "device" in m:
        return f"{m['device']}, torch {m['torch']}, Triton {m.get('triton')}"
    threads = f"{m['threads']} thread{'' if m['threads'] == 1 else 's'}"
    return f"{m['processor']}, {threads}, {m['instruction_set']}, torch {m['torch']}"


# ---- the operator ----


def cells(record: dict) -> dict[tuple, dict[str, dict]]:
    """Measurements by workload (dtype, pass, N, B, share of S), then by implementation; failed ones are left out.

    A dense baseline does the same work for every share of S and gives no gradient of a policy. Where it was not
    measured for a workload, its time for the same N and B counts, with the backward pass if the workload has one.
    """
    table: dict[tuple, dict[str, dict]] = defaultdict(dict)
    dense: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for m in record["measurements"]:
        if "seconds" not in m:
            continue
        table[m["dtype"], m["run"], m["tokens"], m["batch"], m["share_s"]][m["implementation"]] = m
        if not m.get("exact", True):
            dense[m["dtype"], m["run"] != FORWARD, m["tokens"], m["batch"]].setdefault(m["implementation"], m)
    for (dtype, run, tokens, batch, _), by_name in table.items():
        for name, m in dense[dtype, run != FORWARD, tokens, batch].items():
            by_name.setdefault(name, m)
    return dict(table)


def ours_of(by_name: dict[str, dict]) -> dict | None:
    """Our fastest backend of a workload, if one was measured."""
    backends = [m for name, m in by_name.items() if name.startswith("ours")]
    return min(backends, key=lambda m: m["seconds"]) if backends else None


def baselines(record: dict) -> list[str]:
    """Names of the implementations that are not ours, in the order of the record."""
    names = dict.fromkeys(m["implementation"] for m in record["measurements"])
    return [name for name in names if not name.startswith("ours")]


def operator_tables(record: dict) -> list[Table]:
    """A row for a workload: what it is, the time of our fastest backend, and each baseline's time over ours."""
    on_cpu = record["kind"] == "cpu"
    scales = ["of torch.mm", "of copy"] if on_cpu else ["of the floor"]
    shares = ["share_of_matrix_rate", "share_of_memory_rate"] if on_cpu else ["share_of_floor"]
    names = baselines(record)
    rows = []
    for (dtype, run, tokens, batch, share), by_name in cells(record).items():
        ours = ours_of(by_name)
        if ours is None:
            continue
        ratios = [by_name[name]["seconds"] / ours["seconds"] if name in by_name else None for name in names]
        rows.append(
            [
                dtype.removeprefix("torch."),
                run,
                f"{tokens}",
                f"{batch}",
                f"{share:g}",
                f"{milliseconds(ours['seconds'])}{ours['implementation'].removeprefix('ours')}",
                *(f"{ours[name]:.0%}" if name in ours else "n/a" for name in shares),
                *map(times, ratios),
            ]
        )
    return [Table(["dtype", "pass", "N", "B", "share of S", "ours", *scales, *names], rows)]


def rates_of(record: dict, matrix: dict[str, float], memory: float | None) -> str:
    """Rates of the machine, the date, and the hash of the sources."""
    rates = [f"{rate / 1e9:,.0f} GFLOP/s {dtype.removeprefix('torch.')}" for dtype, rate in matrix.items()]
    copy = "" if memory is None else f"; copy: {memory / 1e9:,.0f} GB/s"
    sources = record["machine"].get("sources")
    return f"torch.mm: {', '.join(rates)}{copy}. {record['date']}, kernel sources {sources}."


RATIOS = (
    "Columns on the right: time of the baseline over ours, both in the same run, each checked by the results of its "
    "first and last image."
)


def cpu_caption(record: dict) -> str:
    """The machine, its rates, and what the columns are."""
    return (
        f"{machine_of(record)}; {rates_of(record, record['matrix_rate'], record['memory_rate'])} {RATIOS} "
        "`of torch.mm`: operations of dense attention over our time, as a share of the rate of torch.mm; skipped pairs "
        "count as done. `of copy`: bytes of all tensors, each moved once, over our time, as a share of the rate of a "
        "large copy."
    )


# ---- the tracker on a CPU ----


def tracker_tables(record: dict) -> list[Table]:
    """A row for a model and dtype; times of the other forms over the fused one's."""
    names = [name.removeprefix("fused, ") for name in record["measurements"][0]["forms"]][1:]
    header = ["model", "dtype", "a frame", *names, "attention alone", *(f"{name} alone" for name in _SAME_ATTENTION)]
    rows = []
    for m in record["measurements"]:
        fused = m["forms"]["fused"]
        rows.append(
            [
                m["preset"],
                m["dtype"],
                frames(fused["total"]),
                *(times(form["total"] / fused["total"]) for name, form in m["forms"].items() if name != "fused"),
                milliseconds(fused["attention"]),
                *(times(m["forms"][name]["attention"] / fused["attention"]) for name in _SAME_ATTENTION),
            ]
        )
    return [Table(header, rows)]


def tracker_caption(record: dict) -> str:
    """The machine, the scene, where the time goes, and how far another dtype is from float32."""
    parts = "; ".join(
        f"{x['preset']} {x['dtype']}: "
        + ", ".join(f"{name} {seconds / sum(x['parts'].values()):.0%}" for name, seconds in x["parts"].items())
        for x in record["measurements"]
    )
    flips = "; ".join(
        f"{x['preset']} {x['dtype']}: mean IoU of its boxes to float32's {x['agreement']['mean_iou']:.4f}, "
        f"{x['agreement']['flips']:.2%} of the tokens divided differently"
        for x in record["measurements"]
        if x["dtype"] != "float32"
    )
    return (
        f"{machine_of(record)}, {record['date']}. One target in a frame of "
        "1280 x 720 that is in memory, pre- and post-processing included. `a frame`: the adaptive form (GRM) with "
        "fused attention; right of it the time of the other forms over that, all in one run, in turn, medians. "
        "masked, separate: the paper's two implementations of the same. two-stream, one-stream: the paper's Table 4, "
        "without division. layers fixed: every second dividing layer all S (appendix C.2). New weights, brought to "
        "half of the search tokens in S in every layer. `attention alone`: the operator on q, k, v of all layers. "
        f"Where the time goes: {parts}." + (f" On the same crops of a synthetic video, {flips}." if flips else "")
    )


# ---- training on a CPU ----


def training_tables(record: dict) -> list[Table]:
    """A row for a case: the fused form, and the other forms over it in brackets."""
    cases: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for m in record["measurements"]:
        if "seconds" in m:  # else it says why a form was not measured
            cases[m["preset"], m["batch"], m["precision"]][m["form"]] = m
    forms = list(dict.fromkeys(form for by_form in cases.values() for form in by_form if form != "fused"))

    def cell(by_form: dict[str, dict], text: str, value: Callable[[dict], float]) -> str:
        ratios = [value(by_form[form]) / value(by_form["fused"]) if form in by_form else None for form in forms]
        return f"{text} ({', '.join(map(times, ratios))})"

    rows = []
    for (preset, batch, precision), by_form in cases.items():
        fused = by_form["fused"]
        seconds, sizes = fused["seconds"], {name: f"{n / 2**20:.0f} MiB" for name, n in fused["bytes"].items()}
        rows.append(
            [
                preset,
                f"{batch}",
                precision,
                f"{batch / seconds['step']:.1f}",
                cell(by_form, f"{seconds['step'] * 1e3:.0f} ms", lambda m: m["seconds"]["step"]),
                cell(by_form, f"{seconds['attention'] * 1e3:.0f} ms", lambda m: m["seconds"]["attention"]),
                *(
                    cell(by_form, sizes[name], lambda m, name=name: m["bytes"][name])
                    for name in ("peak", "attention_kept", "attention_rise")
                ),
                f"{fused['bytes']['attention_rise'] / fused['matrix']:.2f}",
            ]
        )
    others = f" ({', '.join(forms)})"
    header = ["model", "B", "dtype", "samples/s", f"step{others}", "in attention", "peak", "kept", "rise", "of N x N"]
    return [Table(header, rows)]


def training_caption(record: dict) -> str:
    """The machine, and what the columns are."""
    rounds = sorted({f"{m['rounds']}" for m in record["measurements"] if "rounds" in m}, key=int)
    reasons = dict.fromkeys(f"{m['form']}: {m['reason']}" for m in record["measurements"] if "reason" in m)
    return (
        f"{machine_of(record)}; {rates_of(record, record['matrix_rate'], None)} {', '.join(rounds)} rounds a row, the "
        "shortest of each counts. A whole step of the trainer with fused attention, in brackets the other forms over "
        "it in the same run; loss and gradients were compared before. `in attention`: forward and backward of the "
        "layers that divide. `peak`: most memory that is held at a time. `kept`: what the attention of all layers "
        "keeps for the backward pass. `rise`: most that one call of it holds over what was held before, and over one "
        "matrix of scores. Separate attention gives the division no gradient: its step is one that leaves the "
        "division modules as they are." + (f" Not measured: {'; '.join(reasons)}." if reasons else "")
    )


# ---- what weights track ----


def learning_tables(record: dict) -> list[Table]:
    """The held-out synthetic sequences in one row, then a row for each folder, and their mean."""
    synthetic = record["synthetic"]
    error = synthetic.get("standard_error")
    score = f"{synthetic['ao']:.3f}" + ("" if error is None else f" ± {error:.3f}")
    rows = [[f"{synthetic['sequences']} held-out synthetic", "", score, f"{synthetic['ao_unmoved']:.3f}"]]
    folders = record.get("folders")
    if folders:
        rows += [
            [name, f"{row['frames']}", f"{row['ao']:.2f}", f"{row['ao_unmoved']:.2f}"]
            for name, row in folders["sequences"].items()
        ]
        count = len(folders["sequences"])
        rows.append([f"mean of the {count} folders", "", f"{folders['ao']:.3f}", f"{folders['ao_unmoved']:.3f}"])
    return [Table(["sequence", "frames", "AO", "first box, never moved"], rows)]


def learning_caption(record: dict) -> str:
    """The weights, how targets are lost, and what scores and sizes say."""
    synthetic = record["synthetic"]
    lost = synthetic["lost"]
    size = synthetic["size"]
    scores = ", ".join(f"{value:.2f} {name}" for name, value in synthetic["median_score"].items())
    shares = ", ".join(f"{share:.2f}" for share in synthetic["share_of_a"])
    return (
        f"Weights {record['weights']}, {record['dtype']}, {machine_of(record)}, {record['date']}. AO: mean over the "
        "sequences of the mean overlap with the truth, after the first frame; ± one standard error. Of the synthetic "
        f"sequences {lost['sequences']} were lost"
        + (
            f", {lost['hidden']} of them while the target was half hidden or just had been, {lost['on_another']} to "
            f"another object; {lost['found_again']} were found again"
            if lost["sequences"]
            else ""
        )
        + "."
        + ("" if size is None else f" Sizes where the overlap is above half: {size:.2f} of the truth.")
        + f" Median score: {scores}. Share of the search tokens in A, layer by layer: {shares}."
    )


# ---- trackers side by side ----


def trackers_tables(record: dict) -> list[Table]:
    """A row for each tracker, the best AO first."""
    header = ["tracker", "AO", "SR50", "IoU at frame 1", "lost", "ms a frame"]
    by_score = sorted(record["trackers"].items(), key=lambda item: -item[1]["ao"])
    rows = [
        [name, *(f"{row[key]:.3f}" for key in ("ao", "sr50", "iou_1")), f"{row['lost']}", f"{row['milliseconds']:.1f}"]
        for name, row in by_score
    ]
    return [Table(header, rows)]


def trackers_caption(record: dict) -> str:
    """How it was measured, and on what."""
    count = max(len(row["sequences"]) for row in record["trackers"].values())
    weights = ", ".join(f"{name} {value}" for name, value in record["weights"].items())
    return (
        f"{machine_of(record)}, OpenCV {record['machine'].get('opencv')}, {record['date']}. Means over {count} "
        "sequences, after the first frame, all trackers in turn in one process on one thread; a frame's time is the "
        "median. No box overlaps nothing. SR50: share of the frames with an overlap above a half. Lost: sequences with "
        f"five frames in a row below 0.1. Ours in {record['dtype']}: {weights or 'none'}."
    )


# ---- the summary ----


def summary(operator: dict, tracker: dict, gpus: list[dict]) -> str:
    """Four rows of a CPU, and what is known of a GPU."""
    table = cells(operator)
    rows = []
    for dtype, run in (("float32", FORWARD), ("bfloat16", FORWARD), ("float32", POLICY)):
        by_name = table[f"torch.{dtype}", run, 320, 8, 0.5]
        ours = ours_of(by_name)
        assert ours is not None, "the record lacks the rows of the summary"
        ratios = [by_name[name]["seconds"] / ours["seconds"] for name in ("SDPA, dense", "masked (paper)")]
        rows.append([f"operator, {run}, {dtype}, B = 8", milliseconds(ours["seconds"]), *map(times, ratios)])
    frame = next(m for m in tracker["measurements"] if (m["preset"], m["dtype"]) == ("grm_b256", "float32"))
    fused, masked = (frame["forms"][form]["total"] for form in ("fused", "masked"))
    rows.append(["tracker GRM-B256, a whole frame, float32", milliseconds(fused), "", times(masked / fused)])
    header = ["", "fused", "torch's attention, no mask", "masked attention (the paper's)"]
    on_gpu = "; ".join(f"{machine_of(record)}, {record['date']}" for record in gpus) or "not run yet"
    return (
        f"{Table(header, rows).markdown()}\n\n{machine_of(operator)}, {operator['date']}: 64 + 256 tokens, 12 heads of "
        "64, half of the search tokens in S. On the right the time of the others over ours, in one run, on results "
        f"that were checked. On a GPU: {on_gpu}."
    )
