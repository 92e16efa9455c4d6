"""The rows of a record as they come: JSON lines that are on the disk before the next thing is tried."""

import json
import os
from pathlib import Path


class Log:
    """Rows in a file, those of earlier calls among them. A disk that is full costs nothing but the file.

    Args:
        path: of the file; it is made, or added to.

    Raises:
        OSError: a file that is there cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict] = []
        #: Lines that could not be written, and why; they are tried again with the next row.
        self.unwritten: list[str] = []
        self.error: OSError | None = None
        if path.exists():
            # What was being written when a machine went away is no JSON.
            self.rows = [row for line in path.read_text(errors="replace").splitlines() if (row := _parsed(line))]
        self._earlier = len(self.rows)

    def add(self, row: dict) -> None:
        """Adds a row and waits until it is on the disk."""
        self.rows.append(row)
        self.unwritten.append(json.dumps(row))
        self.flush()

    def flush(self) -> bool:
        """Writes what is not written yet; whether all is."""
        try:
            while self.unwritten:
                self._write(self.unwritten[0])
                del self.unwritten[0]
        except OSError as error:
            self.error = error
            return False
        return True

    def _write(self, line: str) -> None:
        with open(self.path, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            data = f"{line}\n".encode()
            if size:
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)  # no half of a line stays
                raise

    def step(self, name: str) -> dict | None:
        """How a step ended the last time, None if it never ran."""
        return next((row for row in reversed(self.rows) if row["table"] == "steps" and row["step"] == name), None)

    def has(self, step: str, item: dict, *, retry: bool = False) -> bool:
        """Whether an item of a step has its row; with `retry` an error of an earlier call is none."""
        return any(
            row["step"] == step and row.get("item") == item and not (retry and index < self._earlier and "error" in row)
            for index, row in enumerate(self.rows)
        )


def _parsed(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "table" in row and "step" in row else None
