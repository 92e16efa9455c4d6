"""Interprets a pickle as inert records: nothing that it names is imported, built or called, whatever it asks for.

A checkpoint of `torch.save` is a pickle, and a pickle can name any function to be called. Trackers' checkpoints
moreover hold objects of their trainer's own classes, which are not installed here. Python's own unpickler is no help
against those that mean harm: it sizes its memo by a number in the file, hashes keys by recursion, and has objects set
their own state. So the opcodes are read by `pickletools`, which only parses, and are carried out here: lists and
dictionaries are built, storages and tensors become records that say what is asked for, everything else is `FOREIGN`.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Protocol, cast

# Far above any tracker's checkpoint, and far below what would be felt.
_MAX_BYTES = 64 << 20
_MAX_OPCODES = 1_000_000
_MAX_DEPTH = 100
_MAX_VALUES = 1_000_000


class PickleError(Exception):
    """What a pickle asks for is not done: it is broken, or nothing that a checkpoint holds."""


class Foreign:
    """Stands for every object, class and function that is not known here. There is one: `FOREIGN`."""

    def __repr__(self) -> str:
        return "FOREIGN"


FOREIGN = Foreign()


class Global(NamedTuple):
    """A class or a function by its name."""

    module: str
    name: str


class StorageRecord(NamedTuple):
    """A storage that lies elsewhere in the file."""

    #: The name of its class in torch, as "FloatStorage".
    kind: str
    key: str
    #: Number of elements.
    elements: int


class TensorRecord(NamedTuple):
    """A tensor as a view of a storage; nothing of it is checked."""

    storage: StorageRecord
    offset: Any
    size: Any
    stride: Any


class Readable(Protocol):
    """A binary file, as far as it is needed."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes."""
        ...

    def readline(self, size: int, /) -> bytes:
        """A line with its end, or its first so many bytes."""
        ...


_ORDERED_DICTIONARY = Global("collections", "OrderedDict")
_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = Global("torch._utils", "_rebuild_parameter")


def read_pickle(file: Readable) -> Any:
    """Reads one pickle, up to its end and not further.

    Returns:
        lists, tuples, dictionaries, numbers, strings, bytes, None; `Global`, `StorageRecord`, `TensorRecord`, and
        `FOREIGN` for all else. It may be nested deeply, or contain itself: `rebuild` refuses that.

    Raises:
        PickleError: it is broken, too large, or has opcodes that no checkpoint has.

    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _Bounded(file)))):
            if count == _MAX_OPCODES:
                raise PickleError(f"more than {_MAX_OPCODES} opcodes")
            machine.step(opcode.name, argument)
    except (ValueError, OverflowError, MemoryError) as error:  # of pickletools, which parses what it is given
        raise PickleError(f"not a pickle: {error}") from None
    return machine.pop()


def rebuild(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Copies nested lists, tuples and dictionaries with everything else in them replaced, without recursion.

    What is in several places is copied once.

    Raises:
        PickleError: it contains itself, is nested too deeply, or would be too long if it were written out.

    """
    done: dict[int, tuple[Any, int, int]] = {}  # by identity: the copy, its depth, how many values it writes out to
    open_now, todo = set[int](), [value]
    while todo:
        top = todo[-1]
        if id(top) in done:
            todo.pop()
            continue
        if (children := _children(top)) is None:
            done[id(todo.pop())] = (replace(top), 0, 1)
            continue
        if id(top) not in open_now:
            open_now.add(id(top))
            for child in children:
                if id(child) in open_now:
                    raise PickleError("it contains itself")
            todo += [child for child in children if id(child) not in done]
            continue
        parts = [done[id(child)] for child in children]
        depth = 1 + max((part[1] for part in parts), default=0)
        values = 1 + sum(part[2] for part in parts)
        if depth > _MAX_DEPTH:
            raise PickleError(f"nested more than {_MAX_DEPTH} deep")
        if values > _MAX_VALUES:
            raise PickleError(f"more than {_MAX_VALUES} values")
        copies = [part[0] for part in parts]
        copy = dict(zip(top, copies, strict=True)) if type(top) is dict else type(top)(copies)
        done[id(top)] = (copy, depth, values)
        open_now.discard(id(top))
        todo.pop()
    return done[id(value)][0]


def _children(value: Any) -> list[Any] | None:
    """What a container holds; None for what is none. Records are tuples too, but no containers."""
    if type(value) in (list, tuple):
        return list(value)
    return list(value.values()) if type(value) is dict else None


class _Bounded:
    """A file of at most so many bytes, as `pickletools` wants to read it."""

    def __init__(self, file: Readable):
        self._file, self._left = file, _MAX_BYTES

    def read(self, size: int) -> bytes:
        """At most so many bytes; raises a PickleError once the file has given more than it may."""
        return self._taken(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        """A line with its end; errors as of `read`."""
        return self._taken(self._file.readline(self._left + 1))

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise PickleError(f"more than {_MAX_BYTES} bytes")
        return data


class _Machine:
    """The stack, the marks on it and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """The topmost value, taken off."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("not a pickle: it takes more than it put down")
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Carries out one opcode.

        Raises:
            PickleError: it is not one of those that checkpoints have.

        """
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._stack.append(value := self.pop())
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = value
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            if argument not in self._memo:
                raise PickleError("not a pickle: it recalls what it did not keep")
            self._stack.append(self._memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"it has the opcode {name}, which no checkpoint has")

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop_mark(self, _: Any = None) -> list[Any]:
        if not self._marks:
            raise PickleError("not a pickle: there is no mark")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _drop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self.pop()

    def _duplicate(self, _: Any) -> None:
        self._stack += [value := self.pop(), value]

    def _tuple(self, count: int | None) -> None:
        values = self._pop_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(values))

    def _list(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def _dictionary(self, _: Any) -> None:
        pairs = self._pop_mark()
        self._stack.append({})
        _set_items(self._stack[-1], pairs)

    def _append(self, many: bool) -> None:
        values = self._pop_mark() if many else [self.pop()]
        self._stack.append(target := self.pop())
        if type(target) is list:
            target += values
        elif target is not FOREIGN:
            raise PickleError(f"it appends to a {type(target).__name__}")

    def _set_items(self, many: bool) -> None:
        pairs = self._pop_mark() if many else [self.pop(), self.pop()][::-1]
        self._stack.append(target := self.pop())
        _set_items(target, pairs)

    def _add_items(self, _: Any) -> None:
        self._pop_mark()

    def _global(self, argument: str) -> None:
        self._stack.append(Global(*argument.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it names a function that is no text")
        self._stack.append(Global(module, name))

    def _call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self._stack.append(_result(function, arguments))

    def _forget(self, count: int | None) -> None:
        """An object made in a way that nothing known here is."""
        if count is None:
            self._pop_mark()
        else:
            for _ in range(count):
                self.pop()
        self._stack.append(FOREIGN)

    def _build(self, _: Any) -> None:
        # A state that the object would take: of no use to what is known here (an OrderedDict's attributes).
        self.pop()
        self._stack.append(self.pop())

    def _persistent(self, _: Any) -> None:
        match self.pop():
            case ("storage", Global("torch", kind), str(key), _, int(count), *view) if view in ([], [None]):
                self._stack.append(StorageRecord(kind, key, count))
            case _:
                raise PickleError("it refers to something that is no storage")


def _set_items(target: Any, pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise PickleError("not a pickle: a key without a value")
    if target is FOREIGN:
        return
    if type(target) is not dict:
        raise PickleError(f"it sets items of a {type(target).__name__}")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Whole numbers of more bits could be chosen to have one hash.
        if not (isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)):
            raise PickleError(f"a key: expected text or a number of 64 bits, got {type(key).__name__}")
        target[key] = value


def _result(function: Any, arguments: Any) -> Any:
    """What a call is for: a record, an empty dictionary, or an object of no interest."""
    if not isinstance(arguments, tuple):
        raise PickleError("it calls something without arguments")
    if function == _ORDERED_DICTIONARY and arguments == ():
        return {}
    if function == _TENSOR:
        if len(arguments) < 4 or not isinstance(arguments[0], StorageRecord):
            raise PickleError("a tensor without a storage")
        return TensorRecord(*arguments[:4])
    if function == _PARAMETER and arguments and isinstance(arguments[0], TensorRecord):
        return arguments[0]
    return FOREIGN


_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: FOREIGN,
}
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": _Machine._list,
    "DICT": _Machine._dictionary,
    "APPEND": lambda machine, _: machine._append(False),
    "APPENDS": lambda machine, _: machine._append(True),
    "SETITEM": lambda machine, _: machine._set_items(False),
    "SETITEMS": lambda machine, _: machine._set_items(True),
    "ADDITEMS": _Machine._add_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "NEWOBJ_EX": lambda machine, _: machine._forget(3),
    "INST": lambda machine, _: machine._forget(None),
    "OBJ": lambda machine, _: machine._forget(None),
    "FROZENSET": lambda machine, _: machine._forget(None),
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
