"""Runs tasks one after the other, each in a process of its own: whatever one does, the others run.

A child reports rows through a pipe; what it prints goes to a file and, shortened, into the record. A child that says
nothing for too long is asked where it is (SIGABRT, which prints its stack) and killed with all that it started.
"""

import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.log import Log
from benchmarks.gpu.plan import Task, child_command
from benchmarks.record import ROOT

#: Characters of a step's output that the record keeps: its end.
KEPT = 3000
#: Seconds for a child to print its stack, and then to be gone.
_GRACE, _GONE = 3.0, 10.0

OK, FAILED, KILLED, HUNG, CUT, ABSENT = "ok", "failed", "killed", "hung", "cut", "absent"


def _own_group() -> None:
    os.setpgrp()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Child:
    """A process of a task. It may import what it needs at once, and begins at `follow`."""

    def __init__(self, task: Task, items: tuple[dict, ...], dry: bool) -> None:
        self.task, self.items = task, items
        rows, write = os.pipe()
        self._rows: int | None = rows
        command = task.command
        if task.call:
            arguments = {**task.arguments, **({"items": items} if task.items else {}), "dry": dry}
            command = child_command(task.call, arguments, write)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **task.environment}
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                preexec_fn=_own_group,
            )
        except OSError:
            os.close(rows)
            raise
        finally:
            os.close(write)
        #: What it has announced and not answered.
        self.begun: dict | None = None
        self.answers = 0
        self.output = ""

    def follow(self, deadline: float, keep: Callable[[dict], None], show: Callable[[str], None]) -> tuple[str, str]:
        """Lets the child begin and takes its rows until it ends, hangs, or the time is up: status and reason.

        Whatever happens, it has to be stopped then.
        """
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has died; its output says why
        rest, heard = b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            for pipe in (self._process.stdout.fileno(), self._rows):
                os.set_blocking(pipe, False)
                selector.register(pipe, selectors.EVENT_READ)
            while True:
                ended = self._process.poll() is not None
                # What a process leaves running may hold its pipes open: once it has ended, what is there is all.
                ready = selector.select(0 if ended else 0.1) if selector.get_map() else []
                if ended and not ready:
                    break
                if not ready and not selector.get_map():
                    time.sleep(0.05)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.fd == self._rows:
                        heard = time.monotonic()
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            self._take(line, keep, show)
                    else:
                        self._print(data, show)
                now = time.monotonic()
                if now > deadline:
                    return CUT, "the time was up"
                if now - heard > self.task.patience:
                    return HUNG, f"nothing for {self.task.patience:.0f} s{self._stack(show)}"
        return self._end()

    def _take(self, line: bytes, keep: Callable[[dict], None], show: Callable[[str], None]) -> None:
        try:
            row = json.loads(line)
        except ValueError:  # of whatever wrote to a descriptor that was not its own
            return self._print(line + b"\n", show)
        if "begin" in row:
            self.begun = row
        else:
            self.begun = None
            self.answers += 1
            keep(row)

    def _print(self, data: bytes, show: Callable[[str], None]) -> None:
        text = data.decode(errors="replace")
        self.output = (self.output + text)[-4 * KEPT :]
        show(text)

    def _stack(self, show: Callable[[str], None]) -> str:
        """Where a hung child is, as far as it can still say; it is gone then."""
        self._process.send_signal(signal.SIGABRT)
        end = time.monotonic() + _GRACE
        while time.monotonic() < end:
            try:
                if data := os.read(self._process.stdout.fileno(), 1 << 16):
                    self._print(data, show)
                    continue
                break
            except BlockingIOError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        return "" if self.stop() else ", and it does not die"

    def stop(self) -> bool:
        """Kills the child, if it runs, and all that it started; whether it is gone."""
        if self._rows is None:
            return self._process.returncode is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self._process.wait(_GONE)
        except subprocess.TimeoutExpired:
            return False
        finally:
            for pipe in (self._process.stdin, self._process.stdout):
                pipe.close()
            os.close(self._rows)
            self._rows = None
        return True

    def _end(self) -> tuple[str, str]:
        code = self._process.returncode
        if code == 0:
            return OK, ""
        if code < 0:
            return KILLED, f"killed by {signal.Signals(-code).name}"
        lines = self.output.strip().splitlines()
        return FAILED, f"ended with {code}{': ' + lines[-1][:300] if lines else ''}"


class Schedule:
    """Runs tasks until they are done or the time is up.

    Args:
        log: of the record; what it has is not run again.
        output: file that everything printed is added to.
        deadline: of `time.monotonic`.
        dry: whether children use the stand-in for a GPU.
        retry: whether what failed in an earlier call is run again.
        add: completes a row before it is kept.

    """

    def __init__(
        self,
        log: Log,
        output: Path,
        deadline: float,
        *,
        dry: bool = False,
        retry: bool = False,
        add: Callable[[dict], dict] = dict,
    ) -> None:
        self.log, self.deadline, self.dry, self.retry, self.add = log, deadline, dry, retry, add
        self._output = output
        self._next: Child | None = None
        #: Names of tasks for which the time was not enough.
        self.left: list[str] = []

    def run(self, tasks: list[Task], again: Callable[[Task], bool] = lambda task: False) -> None:
        """Runs what is not done.

        Args:
            tasks: in their order.
            again: whether a task has to run although it is done.

        """
        todo = [task for task in tasks if again(task) or not self._is_done(task)]
        try:
            while todo:
                task = todo.pop(0)
                if self.deadline - time.monotonic() < task.seconds:
                    self.left.append(task.name)
                    continue
                self._run(task, next((t for t in todo if t.call), None) if task.stage != "build" else None)
        finally:
            if self._next:
                self._next.stop()

    def _is_done(self, task: Task) -> bool:
        step = self.log.step(task.name)
        if step is None or step["status"] == CUT:
            return False
        return not self.retry or step["status"] in (OK, ABSENT)

    def _run(self, task: Task, following: Task | None) -> None:
        begin = time.monotonic()
        self._show(f"\n==== {task.name}\n")
        rows = len(self.log.rows)
        try:
            status, reason, output = self._attempts(task, following)
        except OSError as error:  # no process could be started
            status, reason, output = FAILED, f"{type(error).__name__}: {error}", ""
        if status == CUT:
            self.left.append(task.name)
        errors = [row["error"] for row in self.log.rows[rows:] if "error" in row]
        if status == OK and errors:
            status, reason = FAILED, f"{len(errors)} of {len(task.items)}: {errors[0]}"
        seconds = round(time.monotonic() - begin, 1)
        step = {"table": "steps", "step": task.name, "stage": task.stage, "status": status, "seconds": seconds}
        if reason:
            step["error"] = reason
        if output and (status != OK or task.command):
            step["output"] = output[-KEPT:]
        self.log.add(step)
        print(f"{task.name}: {status}{' (' + reason + ')' if reason else ''}, {seconds:.0f} s", flush=True)

    def _attempts(self, task: Task, following: Task | None) -> tuple[str, str, str]:
        """Runs a task; a second time for the items that a child left behind when it died at one of them."""
        if task.command and shutil.which(task.command[0]) is None:
            return ABSENT, f"no program {task.command[0]}", ""
        status, reason, output = OK, "", ""
        for _ in range(2):
            items = tuple(item for item in task.items if not self.log.has(task.name, item, retry=self.retry))
            if task.items and not items:
                break
            child = self._child(task, items)
            if following and not self._next:
                self._next = self._start(following)
            try:
                status, reason = child.follow(self.deadline, lambda row: self._keep(task, row), self._show)
            finally:
                child.stop()
            output += child.output
            if status in (OK, CUT):
                break
            if child.begun:  # only what it was at is lost
                self._keep(task, {**child.begun["row"], "item": child.begun["begin"], "error": f"{status}: {reason}"})
            elif not child.answers:  # it would end so again
                break
        return status, reason, output

    def _child(self, task: Task, items: tuple[dict, ...]) -> Child:
        waiting, self._next = self._next, None
        if waiting and waiting.task is task and waiting.items == items:
            return waiting
        if waiting:
            waiting.stop()
        return Child(task, items, self.dry)

    def _start(self, task: Task) -> Child | None:
        """The next child, which imports while this one is measured: it touches no GPU before its turn."""
        items = tuple(item for item in task.items if not self.log.has(task.name, item, retry=self.retry))
        try:
            return Child(task, items, self.dry)
        except OSError:
            return None

    def _keep(self, task: Task, row: dict) -> None:
        self.log.add(self.add({"step": task.name, **row}))

    def _show(self, text: str) -> None:
        try:
            with open(self._output, "a") as file:
                file.write(text)
        except OSError:
            pass  # the record has the end of it
