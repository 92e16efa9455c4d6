"""Files written as a whole or not at all, and files that are read only if they are files."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path` when the block ends without an error.

    Until then the old file stays as it is. The new one is written beside it, is on the disk before it is renamed, and
    may be read by whom the umask allows.

    What is there and is no regular file, a pipe or a terminal, is written to as it is.

    Raises:
        OSError: it cannot be written; the message names `path`.

    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with naming(path), open(path, "wb") as file:
            yield file
        return
    # Processes of several machines may write to one folder; their numbers may be the same.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with naming(path):
        try:
            with open(temporary, "wb") as file:
                yield file
            _put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Takes away what killed processes left beside `path` while they wrote it. Nobody may be writing it now."""
    path = Path(path)
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)


class Unfinished:
    """The place of a file or folder while it is written: `NAME.unfinished.SUFFIX` beside its own.

    What is there and is neither, a pipe or a terminal, is written to as it is.

    Args:
        path: of the file or folder.

    """

    def __init__(self, path: str | Path):
        self._final = Path(path)
        special = self._final.exists() and not self._final.is_file() and not self._final.is_dir()
        #: Where to write.
        self.path = self._final
        if not special:
            self._final = self._final.resolve()  # what a link means is replaced, not the link
            self.path = self._final.with_name(f"{self._final.stem}.unfinished{self._final.suffix}")

    def finish(self) -> Path:
        """Puts it in its place once it is on the disk, and returns that; errors as of `replacing`."""
        if self.path != self._final:
            with naming(self._final):
                _put(self.path, self._final)
        return self._final

    def discard(self) -> None:
        """Takes away what was written."""
        if self.path != self._final:
            self.path.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | Path, fault: type[Exception]) -> Iterator[Path]:
    """Gives a new folder to write to, which takes the place of `folder` when the block ends without an error.

    Until then it lies where `Unfinished` says, and stays there if there is one. What a process that was killed left
    there is taken away.

    Args:
        folder: new, or empty.
        fault: raised where it is not.

    Raises:
        OSError: it cannot be made.

    """
    check_fillable(folder, fault)
    place = Unfinished(folder)
    shutil.rmtree(place.path, ignore_errors=True)
    place.path.mkdir(parents=True)
    yield place.path
    place.finish()


def check_fillable(folder: str | Path, fault: type[Exception]) -> None:
    """Raises a fault unless a folder is new, or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise fault(f"{folder}: expected an empty or new folder")


@contextmanager
def locked(folder: Path, fault: Exception) -> Iterator[None]:
    """Keeps a folder for this process during the block, as far as the file system can.

    It is made if it is not there, and taken away again if nothing has come into it.

    Raises:
        Exception: `fault`, another process has it.
        OSError: it cannot be made.

    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # there is none on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise fault from None
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        os.close(descriptor)


def open_regular(path: str | Path, fault: type[Exception]) -> BinaryIO:
    """Opens a file to be read, in binary. A pipe, which may never say anything, or a device that never ends is refused.

    Args:
        path: of the file.
        fault: raised where it is no regular file.

    Raises:
        OSError: it cannot be opened.

    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise fault(f"{path}: expected a file, got {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file (UTF-8; of names that are not, their bytes) in place of `path`; errors as of `replacing`."""
    with replacing(path) as file:
        file.write(text.encode(errors="surrogateescape"))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Puts a path into the OSErrors of the block: that of a failed write does not say where."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _put(written: Path, place: Path) -> None:
    """Renames what was written, once it is on the disk, so that the new name outlasts a loss of power."""
    _sync(written)
    os.replace(written, place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
