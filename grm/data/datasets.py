"""The data sets of a configuration, opened: everything that they need is looked for first, and said at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, DatasetConfig, SyntheticConfig
from ..errors import DataError
from .readers.annotations import read_lines
from .readers.coco import coco, coco_paths
from .readers.folder import folder, folder_paths
from .readers.got10k import got10k, got10k_paths
from .readers.lasot import lasot, lasot_paths
from .readers.regions import regions, regions_paths
from .readers.trackingnet import trackingnet, trackingnet_paths
from .sequence import Sequences, VideoSequence
from .synthetic import synthetic_sequences


class Reader(NamedTuple):
    """How a kind of data set is read."""

    #: Empty: there is but one, whatever it is called.
    splits: tuple[str, ...]
    #: (root, split, whether the sequences are named by the user) -> paths that have to be there.
    paths: Callable[[Path, str, bool], list[Path]]
    #: (root, split, names or None) -> sequences.
    read: Callable[[Path, str, list[str] | None], Sequences[Any]]


READERS = {
    "lasot": Reader(("train", "test", "all"), lasot_paths, lasot),
    "trackingnet": Reader(("train", "test"), trackingnet_paths, trackingnet),
    "got10k": Reader(("train", "val", "test"), got10k_paths, got10k),
    "coco": Reader(("train", "val"), coco_paths, coco),
    "folder": Reader((), folder_paths, folder),
    "regions": Reader((), regions_paths, regions),
}
SYNTHETIC_SPLITS = ("train", "held_out")


def check_paths(config: Config, *groups: Mapping[str, DatasetConfig]) -> None:
    """Looks for all that some data sets need.

    Args:
        config: where their roots start.
        groups: each by name: `config.data.train`, `config.data.held_out`.

    Raises:
        DataError: paths are missing; all of them are named.

    """
    named = [item for datasets in groups for item in datasets.items()]
    faults = [fault for name, dataset in named for fault in _faults(config, name, dataset)]
    pasted = rendering(config).cutouts
    if config.data.paste and pasted is not None and not pasted.exists():
        faults.append(f"data.paste: missing: {pasted}")
    if faults:
        raise DataError("\n".join(faults))


def open_datasets(config: Config, datasets: Mapping[str, DatasetConfig]) -> dict[str, Sequences[Any]]:
    """Lists the sequences of data sets. No image is opened, and no annotation but COCO's.

    Args:
        config: where their roots start.
        datasets: by name: `config.data.train` or `config.data.held_out`.

    Raises:
        DataError: paths are missing (all of them are named), or a list cannot be read or is empty.

    """
    check_paths(config, datasets)
    return {name: _open(config, name, dataset) for name, dataset in datasets.items()}


def held_out_sequences(config: Config) -> list[VideoSequence]:
    """The sequences of all held-out data sets of a configuration, one after the other; errors as in `open_datasets`."""
    return [sequence for sequences in open_datasets(config, config.data.held_out).values() for sequence in sequences]


def rendering(config: Config) -> SyntheticConfig:
    """`config.data.synthetic` with its folders from `data.root` on."""
    return config.data.synthetic.model_copy(update=_folders(config))


def _faults(config: Config, name: str, dataset: DatasetConfig) -> list[str]:
    splits = SYNTHETIC_SPLITS if dataset.kind == "synthetic" else READERS[dataset.kind].splits
    if splits and dataset.split not in splits:
        return [f"{name}: split: {dataset.kind} has {', '.join(splits)}, got {dataset.split!r}"]
    if dataset.kind == "synthetic":
        paths = list(_folders(config).values())
    else:
        root, named = config.data.root / dataset.root, dataset.names is not None
        paths = READERS[dataset.kind].paths(root, dataset.split, named)
        paths += [config.data.root / dataset.names] if named else []
    return [f"{name}: missing: {path}" for path in paths if not path.exists()]


def _open(config: Config, name: str, dataset: DatasetConfig) -> Sequences[Any]:
    if dataset.kind == "synthetic":
        return synthetic_sequences(rendering(config), dataset.split, dataset.limit)
    root = config.data.root / dataset.root
    names = None if dataset.names is None else read_lines(config.data.root / dataset.names)
    sequences = READERS[dataset.kind].read(root, dataset.split, names)[: dataset.limit]
    if not sequences:
        raise DataError(f"{name}: {root}: holds no sequences of {dataset.kind} ({dataset.split})")
    return sequences


def _folders(config: Config) -> dict[str, Path]:
    """The folders that synthetic video is made of."""
    names = {name: getattr(config.data.synthetic, name) for name in ("photographs", "cutouts")}
    return {name: config.data.root / folder for name, folder in names.items() if folder is not None}
