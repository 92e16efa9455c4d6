"""The schedule of a GPU's record: whatever a step does, only that step is lost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import schedule as schedule_module
from benchmarks.gpu.log import Log
from benchmarks.gpu.plan import Task
from benchmarks.gpu.schedule import ABSENT, CUT, FAILED, HUNG, KILLED, OK, Schedule
from benchmarks.record import ROOT

# A child that says of every item that it begins it, and then does what the item asks for.
CHILD = """
import json, os, signal, sys, time
arguments, rows = json.loads(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w")
sys.stdin.readline()
def say(row): print(json.dumps(row), file=rows, flush=True)
for item in arguments["items"]:
    row = {"table": "measurements", **item}
    say({"begin": item, "row": row})
    fault = item.get("fault")
    if fault == "raises": raise LookupError("planted")
    if fault == "kills": os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hangs": print("before it hangs", flush=True); time.sleep(60)
    if fault == "garbage": os.write(rows.fileno(), b"not JSON\\n")
    say({**row, "item": item, **({"error": fault} if fault in ("wrong", "poisons") else {"seconds": 1.0})})
    if fault == "poisons": sys.exit(1)
"""


@pytest.fixture
def children(monkeypatch):
    """Children that do not import torch."""

    def command(call, arguments, rows=1):
        return (sys.executable, "-X", "faulthandler", "-c", CHILD, json.dumps(arguments), f"{rows}")

    monkeypatch.setattr(schedule_module, "child_command", command)


def run(tmp_path, tasks, seconds=30.0, **options):
    log = Log(tmp_path / "rows.jsonl")
    schedule = Schedule(log, tmp_path / "output.txt", time.monotonic() + seconds, **options)
    schedule.run(tasks)
    return log, schedule


def group(name, *items, patience=20.0):
    items = tuple(item if isinstance(item, dict) else {"n": item} for item in items)
    return Task(name, "ours", 0, patience, "workloads", {}, items)


def python(name, code, seconds=0.0, patience=20.0):
    return Task(name, "tests", seconds, patience, command=(sys.executable, "-c", code))


def measured(log, step):
    rows = [row for row in log.rows if row["step"] == step and "item" in row]
    return {row["item"]["n"]: row.get("error", row.get("seconds")) for row in rows}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("raises", "failed: ended with 1: LookupError: planted"),
        ("kills", "killed: killed by SIGKILL"),
        ("hangs", "hung: nothing for 1 s"),
        ("wrong", "wrong"),
        ("poisons", "poisons"),  # an error after which the GPU cannot be used by this process
    ],
)
def test_a_fault_costs_one_item(children, tmp_path, fault, error):
    tasks = [group("faulty", 1, {"n": 2, "fault": fault}, 3, patience=1.0), group("good", 4)]
    log, _ = run(tmp_path, tasks)
    assert measured(log, "faulty") == {1: 1.0, 2: error, 3: 1.0}
    assert measured(log, "good") == {4: 1.0}
    step = log.step("faulty")
    assert step["status"] == FAILED and step["error"] == f"1 of 3: {error}"
    assert log.step("good")["status"] == OK
    # And all of it is in the file.
    assert Log(log.path).rows == log.rows


def test_a_child_that_hangs_says_where(children, tmp_path):
    log, _ = run(tmp_path, [group("hangs", {"n": 1, "fault": "hangs"}, patience=1.0)])
    assert "Current thread" in log.step("hangs")["output"] and "before it hangs" in log.step("hangs")["output"]
    assert "Current thread" in (tmp_path / "output.txt").read_text()


def test_two_dead_children_end_a_group(children, tmp_path):
    """The items that are left are not tried a third time: an implementation that kills would cost a child for each."""
    items = [{"n": n, "fault": "kills"} for n in range(4)]
    log, _ = run(tmp_path, [group("kills", *items), group("good", 9)])
    assert sorted(measured(log, "kills")) == [0, 1] and log.step("kills")["status"] == KILLED
    assert measured(log, "good") == {9: 1.0}


def test_what_is_no_row_is_output(children, tmp_path):
    log, _ = run(tmp_path, [group("garbage", {"n": 1, "fault": "garbage"}, 2)])
    assert measured(log, "garbage") == {1: 1.0, 2: 1.0}
    assert "not JSON" in (tmp_path / "output.txt").read_text()


def test_output_of_a_command_that_hangs_is_kept(tmp_path):
    log, _ = run(tmp_path, [python("hangs", "import time; print('so far', flush=True); time.sleep(60)", patience=1.0)])
    assert log.step("hangs")["status"] == HUNG and "so far" in log.step("hangs")["output"]


def test_commands(tmp_path):
    """One that fails, one that is not there, one whose own child holds its output open."""
    holds = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    tasks = [
        python("fails", "import sys; print('why'); sys.exit(3)"),
        Task("absent", "capture", 0, 20, command=("no-such-program",)),
        python("holds", holds),
        python("good", "print('all is well')"),
    ]
    begin = time.monotonic()
    log, _ = run(tmp_path, tasks)
    assert time.monotonic() - begin < 20
    assert [log.step(task.name)["status"] for task in tasks] == [FAILED, ABSENT, OK, OK]
    assert log.step("fails")["error"] == "ended with 3: why" and "all is well" in log.step("good")["output"]


@pytest.mark.parametrize("end", ["time.sleep(60)", "pass"], ids=["hangs", "ends"])
def test_what_a_step_started_is_gone_with_it(tmp_path, end):
    """A compiler that runs on would share the machine with the next measurement."""
    start = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    log, _ = run(tmp_path, [python("starts", f"{start}; print(p.pid, flush=True); {end}", patience=2.0)])
    process = Path("/proc") / log.step("starts")["output"].split()[0]
    for _ in range(50):
        if not process.exists() or process.joinpath("stat").read_text().rpartition(") ")[2][0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("it runs on")


def test_a_second_call_goes_on(children, tmp_path):
    """What was done is not done again; what the time cut is, from the item on that it was at."""
    slow = python("slow", "import time; time.sleep(1)", seconds=60)
    cut = group("cut", 1, {"n": 2, "fault": "hangs"}, 3)
    log, schedule = run(tmp_path, [group("first", 0), slow, cut], seconds=2.0)
    assert schedule.left == ["slow", "cut"] and log.step("slow") is None
    assert log.step("cut")["status"] == CUT and measured(log, "cut") == {1: 1.0}

    rows = len(log.rows)
    log, schedule = run(tmp_path, [group("first", 0), slow, group("cut", 1, 2, 3)], seconds=90.0)
    assert schedule.left == [] and log.step("slow")["status"] == OK and log.step("cut")["status"] == OK
    assert [row["step"] for row in log.rows[rows:]] == ["slow", "cut", "cut", "cut"]
    assert run(tmp_path, [group("first", 0), slow, group("cut", 1, 2, 3)])[0].rows == log.rows


def test_retry_repeats_what_failed(children, tmp_path):
    bad = group("group", 1, {"n": 2, "fault": "wrong"})
    rows = len(run(tmp_path, [bad])[0].rows)
    assert len(run(tmp_path, [bad])[0].rows) == rows
    log, _ = run(tmp_path, [bad], retry=True)
    assert [row.get("item") for row in log.rows[rows:]] == [{"n": 2, "fault": "wrong"}, None]


# ---- a full disk ----

FULL = """
import json, resource, sys, time
from pathlib import Path
from benchmarks.gpu.log import Log
from benchmarks.gpu.plan import Task
from benchmarks.gpu.schedule import Schedule
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
log = Log(folder / "rows.jsonl")
tasks = [Task(f"step {i}", "tests", 0, 20, command=(sys.executable, "-c", "print('x' * 300)")) for i in range(8)]
Schedule(log, folder / "output.txt", time.monotonic() + 30).run(tasks)
whole = [json.loads(line)["step"] for line in log.path.read_text().splitlines()]
print(json.dumps([whole, len(log.unwritten), str(log.error)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([log.flush(), [json.loads(line)["step"] for line in log.path.read_text().splitlines()]]))
"""


def test_a_full_disk_costs_nothing_but_the_file(tmp_path):
    """Rows are whole or not there, every step runs, and what was not written is once there is room."""
    output = subprocess.check_output([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, text=True).splitlines()
    steps = [f"step {i}" for i in range(8)]
    assert [line.split(",")[0] for line in output if line.startswith("step")] == [f"{step}: ok" for step in steps]
    (whole, unwritten, error), (flushed, after) = map(json.loads, output[-2:])
    assert 0 < len(whole) < 8 and whole == steps[: len(whole)] and unwritten == 8 - len(whole)
    assert "File too large" in error
    assert flushed and after == steps


def test_half_a_line_is_no_row(tmp_path):
    """As it stands when a machine goes away while a row is written."""
    path = tmp_path / "rows.jsonl"
    log = Log(path)
    log.add({"table": "steps", "step": "one", "status": OK})
    with open(path, "a") as file:
        file.write('{"table": "steps", "st')
    log = Log(path)
    assert [row["step"] for row in log.rows] == ["one"]
    log.add({"table": "steps", "step": "two", "status": OK})
    assert [row["step"] for row in Log(path).rows] == ["one", "two"]


def test_no_core_is_left(tmp_path):
    """A process that aborts would fill the disk with its memory."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    log, _ = run(tmp_path, [python("core", code)])
    assert log.step("core")["output"].strip() == "0"
