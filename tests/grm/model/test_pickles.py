"""Checkpoints that nobody should trust: pickles that name functions, archives that lie, and what is read rightly."""

import importlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import pytest
import torch

from grm.errors import WeightsError
from grm.model import load_weights
from grm.model.checkpoints import read_pickled_checkpoint
from grm.model.pickles import FOREIGN

from .small import small_model


class Harm:
    """Pickles into a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write_checkpoint(path, data, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("planted/data.pkl", data)
        archive.writestr("planted/byteorder", "little")
        for key, storage in enumerate(storages):
            archive.writestr(f"planted/data/{key}", storage)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["net", "beside"])
def test_nothing_that_a_pickle_names_is_called(tmp_path, protocol, where):
    mark = tmp_path / "mark"
    harms = [
        Harm(os.system, f"touch {mark}"),
        Harm(eval, f"open({str(mark)!r}, 'w')"),
        Harm(open, str(mark), "w"),
        Harm(importlib.import_module, "this"),
        Harm(os.mkdir, str(mark)),
    ]
    checkpoint = {"net": {"x": 1}, "planted": harms}
    if where == "net":
        checkpoint = {"net": {"x": harms[0]}}
    write_checkpoint(tmp_path / "planted.pth.tar", pickle.dumps(checkpoint, protocol))
    read = read_pickled_checkpoint(tmp_path / "planted.pth.tar")
    planted = read["planted"] if where == "beside" else [read["net"]["x"]]
    assert all(item is FOREIGN for item in planted)
    with pytest.raises(WeightsError):
        load_weights(small_model(), tmp_path / "planted.pth.tar")
    assert not mark.exists()
    assert "this" not in sys.modules


def test_nothing_that_a_pickle_names_is_imported(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    (tmp_path / "planted_module.py").write_text(f"open({str(mark)!r}, 'w')\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for data in (
        b"cplanted_module\nThing\n.",
        b"\x80\x04\x8c\x0eplanted_module\x8c\x05Thing\x93.",
        b"(iplanted_module\nThing\n.",
    ):
        write_checkpoint(tmp_path / "planted.pth.tar", data)
        read_pickled_checkpoint(tmp_path / "planted.pth.tar")
    assert "planted_module" not in sys.modules
    assert not mark.exists()


def test_foreign_objects_may_be_filled_and_called(tmp_path):
    # A global, called, then filled as a list, a set and a dictionary, given a state, and its result called.
    data = b"\x80\x04cforeign\nThing\n)R" + b"K\x01a(K\x02K\x03e(K\x04\x90" + b"K\x05K\x06s}b" + b")R."
    write_checkpoint(tmp_path / "x.pth", data)
    assert read_pickled_checkpoint(tmp_path / "x.pth") is FOREIGN


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\x80\x04}",  # no end
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",  # not a storage
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x04tQ.",  # no record
    ],
)
def test_broken_pickles_are_one_error(tmp_path, data):
    write_checkpoint(tmp_path / "x.pth", data)
    with pytest.raises(WeightsError, match=r"x\.pth: the checkpoint is broken"):
        read_pickled_checkpoint(tmp_path / "x.pth")


def test_tensors_outside_of_their_storage_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"net": {"x": torch.arange(4.0)}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    record = next(name for name in records if name.endswith("data/0"))
    for shorter in (b"", b"\0" * 8):
        records[record] = shorter
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in records.items():
                archive.writestr(name, data)
        with pytest.raises(WeightsError, match="the checkpoint is broken"):
            read_pickled_checkpoint(path)


def test_tensors_of_every_kind_are_read_as_written(tmp_path):
    shared = torch.arange(24.0).view(4, 6)
    tensors = {
        "view": shared[1:, ::2],
        "transposed": shared.T,
        "half": torch.tensor([1.5], dtype=torch.float16),
        "bfloat16": torch.tensor([1.5], dtype=torch.bfloat16),
        "double": torch.tensor(2.5, dtype=torch.float64),
        "long": torch.tensor([3, -4]),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save({"net": tensors}, tmp_path / "x.pth")
    read = read_pickled_checkpoint(tmp_path / "x.pth")["net"]
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor.detach()), name


def test_the_format_from_before_torch_1_6_is_read_likewise(tmp_path, foreign_module):
    path = tmp_path / "old.pth"
    shared = torch.arange(6.0).view(2, 3)
    content = {"net": {"x": shared, "y": shared.T[1:], "z": torch.tensor([7])}, "settings": foreign_module.Settings()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    read = read_pickled_checkpoint(path)
    assert all(torch.equal(read["net"][name], tensor) for name, tensor in content["net"].items())
    assert read["settings"] is FOREIGN
    whole = path.read_bytes()
    for cut in (1, 9, 40, len(whole) - 40, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match=r"not a checkpoint|the checkpoint is broken"):
            read_pickled_checkpoint(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read_pickled_checkpoint(path)
    with pytest.raises(OSError, match="missing"):
        read_pickled_checkpoint(tmp_path / "missing.pth")


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"no data\.pkl"):
        read_pickled_checkpoint(tmp_path / "x.pth")
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name in source.namelist():
            archive.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    with pytest.raises(WeightsError, match="little-endian"):
        read_pickled_checkpoint(tmp_path / "x.pth")


# --- small files that ask for much ---

NESTED = 20_000
LENGTH = struct.Struct("<I").pack


def pickled_tensor(count, offset=0, size=(4,), stride=(1,), key=b"0", kind=b"FloatStorage"):
    """The opcodes of a tensor; numbers may be what they like."""
    pushed = lambda numbers: b"(" + b"".join(pickle.dumps(n, 2)[2:-1] for n in numbers) + b"t"  # noqa: E731
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX" + LENGTH(len(key)) + key
    storage += b"X\x03\x00\x00\x00cpu" + pickle.dumps(count, 2)[2:-1] + b"tQ"
    view = pickle.dumps(offset, 2)[2:-1] + pushed(size) + pushed(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89)tR"


LARGE = {
    "a key nested in tuples": (b"\x80\x02}N" + b"\x85" * NESTED + b"K\x01s.", "a key: .* got tuple"),
    "a storage's key nested in tuples": (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nN"
        + b"\x85" * NESTED
        + b"X\x03\x00\x00\x00cpuK\x04tQ.",
        "no storage",
    ),
    "values nested in lists": (b"\x80\x02" + b"]" * NESTED + b"a" * (NESTED - 1) + b".", "nested more than 100 deep"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "contains itself"),
    "tuples of the same twice, as a value": (b"\x80\x02N" + b"2\x86" * 40 + b".", "more than 1000000 values"),
    "tuples of the same twice, as a key": (b"\x80\x02}N" + b"2\x86" * 60 + b"K\x01s.", "a key: .* got tuple"),
    "a memo of 2^28": (b"\x80\x02Nr\x00\x00\x00\x10.", None),
    "text of 2^31": (b"\x80\x02X\x00\x00\x00\x80abc.", "not a pickle"),
    "a number of 2^31 bytes": (b"\x80\x02\x8b\x00\x00\x00\x7fabc.", "not a pickle"),
    "keys of one hash": (
        b"\x80\x02}(\x8a\x09" + ((2**61 - 1) << 9).to_bytes(9, "little") + b"Nu.",
        "a key: .* got int",
    ),
    "a buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "an extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "a tensor of stride 0": (
        b"\x80\x02" + pickled_tensor(4, size=(2**30,), stride=(0,)) + b".",
        "larger than its storage",
    ),
    "a tensor behind its storage": (b"\x80\x02" + pickled_tensor(4, offset=1) + b".", "larger than its storage"),
    "a tensor before its storage": (b"\x80\x02" + pickled_tensor(4, offset=-1) + b".", "not one of a tensor"),
    "a tensor of negative stride": (b"\x80\x02" + pickled_tensor(4, stride=(-1,)) + b".", "not one of a tensor"),
    "a tensor of text": (b"\x80\x02" + pickled_tensor(4, size=("a",)) + b".", "not one of a tensor"),
    "a tensor of 2^62": (b"\x80\x02" + pickled_tensor(2**62, size=(2**61,)) + b".", "not one of a tensor"),
    "a storage that is not all there": (b"\x80\x02" + pickled_tensor(5, size=(1,)) + b".", "shorter than it should be"),
    "a storage that is not there": (b"\x80\x02" + pickled_tensor(4, key=b"9") + b".", "a storage is missing"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_small_file_takes_little(tmp_path, name):
    data, message = LARGE[name]
    path = write_checkpoint(tmp_path / "x.pth", data, [bytes(16)])
    tracemalloc.start()
    try:
        if message is None:
            assert read_pickled_checkpoint(path) is None
        else:
            with pytest.raises(WeightsError, match=rf"x\.pth: the checkpoint is broken: .*{message}") as error:
                read_pickled_checkpoint(path)
            assert len(str(error.value)) < 400
        assert tracemalloc.get_traced_memory()[1] < 200 * len(data) + 2**20
    finally:
        tracemalloc.stop()


def test_views_are_bounded_together(tmp_path):
    data = b"\x80\x02](" + pickled_tensor(2**14, size=(2**14,)) * 200 + b"e."
    with pytest.raises(WeightsError, match="many times larger than the file"):
        read_pickled_checkpoint(write_checkpoint(tmp_path / "x.pth", data, [bytes(2**16)]))


@pytest.mark.parametrize("name", ["a key nested in tuples", "values nested in lists", "a memo of 2^28"])
def test_the_old_format_is_bounded_likewise(tmp_path, name):
    data, message = LARGE[name]
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "x.pth").write_bytes(start + data + pickle.dumps([], 2))
    if message is None:
        assert read_pickled_checkpoint(tmp_path / "x.pth") is None
    else:
        with pytest.raises(WeightsError, match=f"the checkpoint is broken: .*{message}"):
            read_pickled_checkpoint(tmp_path / "x.pth")


def test_a_state_is_set_on_nothing(tmp_path):
    """BUILD would make a tensor of memory as it is, set hooks, and write attributes of our own functions."""
    state = pickle.dumps({"__name__": "other"}, 2)[2:-1]
    for target in (pickled_tensor(4), b"ctorch._utils\n_rebuild_tensor_v2\n"):
        data = b"\x80\x02" + target + state + b"b."
        read = read_pickled_checkpoint(
            write_checkpoint(tmp_path / "x.pth", data, [torch.arange(4.0).numpy().tobytes()])
        )
        assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"
        if isinstance(read, torch.Tensor):
            assert torch.equal(read, torch.arange(4.0))


def test_compressed_records_are_not_unpacked(tmp_path):
    data = b"\x80\x02" + pickled_tensor(2**18, size=(2**18,)) + b"."
    path = write_checkpoint(tmp_path / "x.pth", data, [bytes(2**20)], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed or encrypted"):
        read_pickled_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_overlap_or_repeat_are_refused(tmp_path):
    path = write_checkpoint(tmp_path / "x.pth", b"N.", [bytes(1000), bytes(10)])
    whole = bytearray(path.read_bytes())
    name = whole.rindex(b"planted/data/1")
    whole[name - 4 : name] = whole[whole.rindex(b"planted/data/0") - 4 : whole.rindex(b"planted/data/0")]
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="overlap"):
        read_pickled_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("planted/data.pkl", "N.")
        archive.writestr("planted/data.pkl", "N.")
    with pytest.raises(WeightsError, match="is there twice"):
        read_pickled_checkpoint(path)


@pytest.mark.parametrize("damage", ["content", "storage"])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / "x.pth"
    torch.save({"net": {"sought": torch.arange(4.0)}}, path)
    old, new = (b"sought", b"taught") if damage == "content" else (torch.arange(4.0).numpy().tobytes(), bytes(16))
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(WeightsError, match="Bad CRC-32"):
        read_pickled_checkpoint(path)


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "loop"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.pth"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else path)
    error, message = (OSError, "symbolic links") if kind == "loop" else (WeightsError, "expected a file, got a")
    with pytest.raises(error, match=message):
        read_pickled_checkpoint(path)
