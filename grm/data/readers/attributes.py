"""What is hard about the sequences of a data set, as its own files say: a row of 0 and 1 for each, or words.

OTB100 has `NAME/attrs.txt` with words, or its toolkit's `anno/att/NAME.txt`; LaSOT and its extension their toolkit's
`annos/att/NAME.txt`; UAV123 `anno/UAV123/att/NAME.txt`; TNL2K `NAME/attributes.txt` or `attributes/NAME.txt`. GOT-10k
has `meta_info.ini` and labels of its frames, AVisT and LaSOT flags of theirs. NfS and ITB come with none.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...errors import DataError
from .annotations import read_lines

# What the numbers of a file stand for, in the order of the toolkits.
_OTB = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
_LASOT = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
_UAV = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")
_TNL2K = (
    "CM", "ROT", "DEF", "FOC", "IV", "OV", "POC", "VC", "SV", "BC", "MB", "ARC", "LR", "FM", "AS", "TC", "MS",
)  # fmt: skip
# Of GOT-10k's `cover.label`, from 0 to 8, the most that counts as half covered.
_HALF_COVERED = 4

#: (root, name of a sequence) -> its attributes; none where the data set does not say.
Reader = Callable[[Path, str], list[str]]


def attributes_of(benchmark: str, root: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """The sequences that have each attribute.

    Args:
        benchmark: a name of `grm.evaluation.benchmarks.BENCHMARKS`.
        root: folder of the data set.
        names: of the sequences.

    Raises:
        DataError: a file of attributes is broken.

    """
    found: dict[str, list[str]] = {}
    if benchmark not in _READERS:
        return found
    for name in names:
        for attribute in _READERS[benchmark](root, name):
            found.setdefault(attribute, []).append(name)
    return found


def _otb(root: Path, name: str) -> list[str]:
    # The toolkit writes jogging-1 where the second target of the folder Jogging is Jogging_2.
    folder, low = name.rpartition("_")[0] or name, name.lower()
    places = [root / name / "attrs.txt", root / folder / "attrs.txt"]
    places += [root / "anno" / "att" / f"{file}.txt" for file in (name, low, low.replace("_", "-"))]
    return _row(places, _OTB)


def _lasot(root: Path, name: str) -> list[str]:
    places = [root / part / "att" / f"{name}.txt" for part in ("annos", "anno", ".")]
    if any(place.is_file() for place in places):
        return _row(places, _LASOT)
    nested = root / name.rpartition("-")[0] / name
    folder = nested if nested.is_dir() else root / name
    return _flags({"FOC": folder / "full_occlusion.txt", "OV": folder / "out_of_view.txt"})


def _uav123(root: Path, name: str) -> list[str]:
    return _row([root / "anno" / "UAV123" / "att" / f"{name}.txt"], _UAV)


def _tnl2k(root: Path, name: str) -> list[str]:
    return _row([root / name / "attributes.txt", root / "attributes" / f"{name}.txt"], _TNL2K)


def _avist(root: Path, name: str) -> list[str]:
    flags = {"FOC": "full_occlusion", "OV": "out_of_view"}
    return _flags({key: root / flag / f"{name}_{flag}.txt" for key, flag in flags.items()})


def _got10k(split: str) -> Reader:
    def read(root: Path, name: str) -> list[str]:
        folder = root / split / name
        found = _flags({"absent": folder / "absence.label", "cut by image": folder / "cut_by_image.label"})
        if (folder / "cover.label").is_file() and (_numbers(folder / "cover.label") <= _HALF_COVERED).any():
            found.append("half covered")
        if (folder / "meta_info.ini").is_file():
            pairs = dict(line.split(": ", 1) for line in read_lines(folder / "meta_info.ini") if ": " in line)
            found += [pairs[key].strip() for key in ("root_class", "motion_adverb") if pairs.get(key, "").strip()]
        return found

    return read


_READERS: dict[str, Reader] = {
    "got10k-val": _got10k("val"),
    "lasot": _lasot,
    "lasot-extension": _lasot,
    "avist": _avist,
    "uav123": _uav123,
    "otb100": _otb,
    "tnl2k": _tnl2k,
}


def _row(places: list[Path], columns: tuple[str, ...]) -> list[str]:
    """The attributes that the first file that is there gives: by number, or by word."""
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return []
    words = " ".join(read_lines(path)).replace(",", " ").replace(";", " ").split()
    if set(words) <= set(columns):
        return words
    if len(words) != len(columns) or not set(words) <= {"0", "1"}:
        raise DataError(f"{path}: expected {len(columns)} numbers 0 or 1, or some of {', '.join(columns)}")
    return [column for column, word in zip(columns, words, strict=True) if word == "1"]


def _flags(paths: dict[str, Path]) -> list[str]:
    """The attributes whose file has a frame that is not 0."""
    return [name for name, path in paths.items() if path.is_file() and _numbers(path).any()]


def _numbers(path: Path) -> np.ndarray:
    try:
        return np.array(" ".join(read_lines(path)).replace(",", " ").split(), dtype=np.int64)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
