"""Builds, tests and times everything on a machine with a GPU: ``python -m benchmarks.gpu_record --output FOLDER``.

Runs tasks in the order of what is most needed, each in a process of its own, for as many minutes as it is given; a
second call with the same folder goes on where the first stopped. In the folder are, for each GPU and state of the
sources, the rows as they came (.jsonl) and the record made of them (.json, for benchmarks/results), and everything that
was printed (output.txt).

``--dry`` walks the same path on a CPU with tiny sizes, the emulation of the CUDA kernels and Triton's interpreter: it
proves the command, not the speed.
"""

import argparse
import os
import re
import signal
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks import record
from benchmarks.gpu import plan, summary
from benchmarks.gpu.log import Log
from benchmarks.gpu.plan import Task
from benchmarks.gpu.schedule import OK, Child, Schedule

#: Seconds kept for the end.
_RESERVE = 8.0


def describe(dry: bool) -> dict:
    """The machine, as a child sees it.

    Raises:
        RuntimeError: the child failed, with the last line that it printed.

    """
    rows: list[dict] = []
    child = Child(Task("describe", "describe", 0, 120, "describe"), (), dry)
    try:
        status, reason = child.follow(time.monotonic() + 120, rows.append, lambda text: None)
    finally:
        child.stop()
    if status != OK or not rows:
        raise RuntimeError(reason)
    return rows[0]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Runs what is left to run; 1 if something failed, or could not be written."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_record", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record (default demo)")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which everything ends (default 9)")
    parser.add_argument("--dry", action="store_true", help="walk the whole path on the CPU with tiny sizes")
    parser.add_argument("--retry", action="store_true", help="run again what failed in an earlier call")
    parser.add_argument("--only", action="append", metavar="STAGE", help="a stage, as --list shows; repeatable")
    parser.add_argument("--list", action="store_true", help="print the tasks by stage and end")
    parser.add_argument(
        "--with",
        dest="more",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="one more implementation to measure, a benchmarks.workload.Implementation; repeatable",
    )
    options = parser.parse_args()
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        machine = {} if options.list else describe(options.dry)
    except (OSError, RuntimeError) as error:
        parser.error(str(error))
    tasks = plan.tasks(machine.get("capability", "9.0"), options.dry, tuple(options.more))
    stages = list(dict.fromkeys(task.stage for task in tasks))
    if unknown := [stage for stage in options.only or [] if stage not in stages]:
        parser.error(f"--only: expected one of {', '.join(stages)}; got {', '.join(unknown)}")
    tasks = [task for task in tasks if not options.only or task.stage in options.only]
    if options.list:
        print("\n".join(f"{task.stage}: {task.name}" for task in tasks))
        return 0

    # Rows of another GPU, or of other kernels, are of another record.
    name = re.sub(r"\W+", "_", "dry" if options.dry else machine["device"]).strip("_").lower()
    log = Log(options.output / f"gpu_{name}_{machine['sources']}.jsonl")
    if not any(row["table"] == "machine" for row in log.rows):
        log.add({"step": "describe", **machine, "date": date.today().isoformat()})

    schedule = Schedule(
        log,
        options.output / "output.txt",
        begin + 60 * options.minutes - _RESERVE,
        dry=options.dry,
        retry=options.retry,
        add=lambda row: summary.with_floors(row, summary.rates_of(log.rows)),
    )
    try:
        schedule.run(tasks, lambda task: task.stage == "build" and not options.dry and not plan.extension_is_current())
    except KeyboardInterrupt:
        schedule.left.append("interrupted")
    return _finish(log, schedule, options.output / f"gpu_{name}_{date.today().isoformat()}.json", options.dry)


def _finish(log: Log, schedule: Schedule, path: Path, dry: bool) -> int:
    """Writes the record, prints what to change, and what could not be written."""
    started = next(row["date"] for row in log.rows if row["table"] == "machine")
    assembled = summary.assemble(log.rows, schedule.left, started, dry)
    written = log.flush()
    try:
        record.write(assembled, path)
    except OSError as error:
        written, log.error = False, error
    print(f"rows:   {log.path}\nrecord: {path}")
    if not written:
        print(f"NOT WRITTEN ({log.error}); the rows that are missing in the file:", *log.unwritten, sep="\n")
    print("\n".join(summary.lines(assembled)), flush=True)
    return 0 if written and all(step["ok"] for step in assembled["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
