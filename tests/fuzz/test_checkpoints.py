"""Checkpoints that are damaged or made up: read or refused in one line, and nothing in them is run."""

import codecs
import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from grm.errors import GrmError
from grm.model import load_model, load_weights
from grm.model.checkpoints import read_pickled_checkpoint
from grm.training.checkpoint import load_checkpoint

from ..grm.model.small import small_model
from .effort import File, damaged, fuzzed


class Foreign:
    """Of a class that a checkpoint names."""


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


MODEL = small_model()
NET = OrderedDict((name, tensor) for name, tensor in list(MODEL.state_dict().items())[:6])
CONTENT = {"net": NET, "epoch": 3, "settings": Foreign(), "parameter": torch.nn.Parameter(torch.ones(2)), "list": [1.5]}
ARCHIVE, LEGACY = saved(CONTENT), saved(CONTENT, _use_new_zipfile_serialization=False)
OWN = save(MODEL.state_dict(), {"format": "grm-1", "config": MODEL.config.model_dump_json()})
with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as records:
    RECORDS = {name: records.read(name) for name in records.namelist()}
    PICKLE = next(name for name in RECORDS if name.endswith("/data.pkl"))

# Encodings are modules of Python's own, imported when a text is first in them.
for encoding in ("cp437", "raw_unicode_escape", "unicode_escape", "latin-1", "ascii"):
    codecs.lookup(encoding)
happened = []
watching = False


def _watch(event, arguments):
    if watching and event in ("import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class"):
        happened.append((event, str(arguments)[:200]))


sys.addaudithook(_watch)


def read(path, data, function=read_pickled_checkpoint):
    """Reads such a file, and checks that nothing else happens."""
    global watching
    path.write_bytes(data)
    happened.clear()
    watching = True
    try:
        content = function(path)
    except GrmError as error:
        assert len(str(error)) < 5000 and all(line.isprintable() for line in str(error).split("\n"))
        content = None
    finally:
        watching = False
    assert not happened
    return content


def rezipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, record in RECORDS.items():
            archive.writestr(name, data if name == PICKLE else record)
    return File(file.getvalue())


@st.composite
def files(draw):
    """Damaged files of both formats, and archives that are whole but for the pickle in them."""
    match draw(st.sampled_from(["archive", "legacy", "pickle"])):
        case "archive":
            return damaged(draw, ARCHIVE)
        case "legacy":
            return damaged(draw, LEGACY)
        case _:
            return rezipped(damaged(draw, RECORDS[PICKLE]))


@st.composite
def programs(draw):
    """Pickles made of what checkpoints are made of, in any order."""
    number = st.one_of(st.integers(-5, 50), st.sampled_from([2**31, 2**62, -(2**70)]))
    text = st.sampled_from(["storage", "cpu", "0", "1", "net", "x" * 50])
    parts = {
        "number": number.map(lambda n: pickle.dumps(n, 2)[2:-1]),
        "text": text.map(lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()),
        "put": st.integers(0, 5).map(lambda n: b"q" + bytes([n])),
        "get": st.integers(0, 5).map(lambda n: b"h" + bytes([n])),
        "far": st.just(b"r\xff\xff\xff\x7f"),
        "plain": st.sampled_from([b"N", b"(", b"]", b"}", b")", b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"a", b"e",
                                  b"s", b"u", b"R", b"\x81", b"b", b"Q", b"0", b"1", b"2", b"\x94", b"\x8f", b"\x90"]),
        "name": st.sampled_from([b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
                                 b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n",
                                 b"(ios\nsystem\n"]),
    }  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(sorted(parts)).flatmap(parts.__getitem__), max_size=60))
    return rezipped(b"\x80\x02" + b"".join(chosen) + b".")


@fuzzed(60, 5000, data=files())
def check_damaged_checkpoints(data):
    path = check_damaged_checkpoints.folder / "x.pth"
    content = read(path, data)
    if isinstance(content, dict) and isinstance(content.get("net"), dict):
        for name, tensor in content["net"].items():  # what was read is of the file, and can be looked at
            assert isinstance(name, str | int)
            if isinstance(tensor, torch.Tensor):
                assert tensor.numel() * tensor.element_size() <= len(data) and tensor.clone().shape == tensor.shape


@fuzzed(100, 5000, data=programs())
def check_made_up_pickles(data):
    read(check_made_up_pickles.folder / "x.pth", data)


@fuzzed(30, 1000, data=st.composite(lambda draw: damaged(draw, OWN))())
def check_damaged_weights(data):
    """Of our own format; where a model comes of it, its weights are finite."""
    model = read(check_damaged_weights.folder / "x.safetensors", data, load_model)
    assert model is None or all(tensor.isfinite().all() for tensor in model.state_dict().values())


@fuzzed(20, 1000, data=files())
def check_what_asks_for_weights(data):
    path = check_what_asks_for_weights.folder / "x.pth"
    assert read(path, data, lambda path: load_weights(MODEL, path)) is None
    assert read(path, data, load_checkpoint) is None


def test_whole_files_are_read(tmp_path):
    for data in (ARCHIVE, LEGACY, rezipped(RECORDS[PICKLE])):
        content = read(tmp_path / "x.pth", data)
        assert all(torch.equal(content["net"][name], tensor) for name, tensor in NET.items())
    assert read(tmp_path / "x.safetensors", OWN, load_model) is not None
