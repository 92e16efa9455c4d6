"""The benchmarks: a row for each with its reader, split, metrics, protocol and the published threshold."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..config import ModelConfig, SyntheticConfig
from ..data import Sequences
from ..data.readers.annotations import read_lines
from ..data.readers.avist import avist, avist_paths
from ..data.readers.folder import folder, folder_paths
from ..data.readers.got10k import got10k, got10k_paths
from ..data.readers.itb import itb, itb_paths
from ..data.readers.lasot import lasot, lasot_paths
from ..data.readers.nfs import nfs, nfs_paths
from ..data.readers.otb import otb, otb_paths
from ..data.readers.tnl2k import tnl2k, tnl2k_paths
from ..data.readers.trackingnet import trackingnet, trackingnet_paths
from ..data.readers.uav123 import uav123, uav123_paths
from ..data.synthetic import synthetic_sequences
from ..errors import ConfigError, DataError
from .metrics import Protocol

#: `success`: area under the success curve, precision, normalised precision. `got10k`: average overlap, success rates.
Metric = Literal["success", "got10k"]
FOLDER, SYNTHETIC = "folder", "synthetic"


class Benchmark(NamedTuple):
    """How one benchmark is read and measured."""

    title: str
    #: (root, split, whether the sequences are named by the user) -> paths that have to be there.
    paths: Callable[[Path, str, bool], list[Path]]
    #: (root, split, names or None) -> sequences.
    read: Callable[[Path, str, list[str] | None], Sequences[Any]]
    split: str = "all"
    metric: Metric = "success"
    #: The one of its own toolkit, or the common one.
    protocol: Protocol = "all-frames"
    #: P(S) below which a token is A, in the published results of GRM-B256; None: arg-max.
    threshold: float | None = None
    #: Whether the truth of all frames is public. Without it, results are sent to a server.
    truth: bool = True
    #: What pytracking puts before the names of the sequences.
    prefix: str = ""


def _no_paths(root: Path, split: str, named: bool) -> list[Path]:
    return []


def _no_reader(root: Path, split: str, names: list[str] | None) -> Sequences[Any]:
    raise ConfigError("synthetic sequences have no root: give a configuration of them")


BENCHMARKS: dict[str, Benchmark] = {
    "got10k-val": Benchmark("GOT-10k val", got10k_paths, got10k, "val", metric="got10k"),
    "got10k-test": Benchmark("GOT-10k test", got10k_paths, got10k, "test", metric="got10k", truth=False),
    "lasot": Benchmark("LaSOT", lasot_paths, lasot, "test", threshold=0.4),
    "lasot-extension": Benchmark("LaSOT extension", lasot_paths, lasot),
    "trackingnet": Benchmark("TrackingNet test", trackingnet_paths, trackingnet, "test", truth=False),
    "avist": Benchmark("AVisT", avist_paths, avist, threshold=0.4),
    "nfs30": Benchmark("NfS30", nfs_paths, nfs, threshold=0.6, prefix="nfs_"),
    "uav123": Benchmark("UAV123", uav123_paths, uav123, threshold=0.55, prefix="uav_"),
    "otb100": Benchmark("OTB100", otb_paths, otb),
    "tnl2k": Benchmark("TNL2K", tnl2k_paths, tnl2k),
    "itb": Benchmark("ITB", itb_paths, itb),
    FOLDER: Benchmark("folder", folder_paths, folder),
    SYNTHETIC: Benchmark("synthetic video", _no_paths, _no_reader, "held_out"),
}


def find_benchmark(name: str) -> Benchmark:
    """The row of a benchmark.

    Raises:
        ConfigError: there is none of that name.

    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    return BENCHMARKS[name]


def published_threshold(benchmark: Benchmark, config: ModelConfig) -> float | None:
    """The threshold of the published results on a benchmark, for published weights of this configuration.

    Only those of GRM-B256 were found for each benchmark; all others are arg-max.
    """
    is_b256 = (config.encoder.width, config.encoder.depth, config.search.size) == (768, 12, 256)
    return benchmark.threshold if is_b256 and config.division.threshold is None else None


def open_benchmark(
    name: str,
    root: Path | None,
    *,
    names: Path | None = None,
    limit: int | None = None,
    synthetic: SyntheticConfig | None = None,
) -> Sequences[Any]:
    """Lists the sequences of a benchmark. No image is opened.

    Args:
        name: of the benchmark.
        root: folder of the data set; synthetic sequences have none.
        names: file that names the sequences to take, one a line, for data sets whose lists differ from release to
            release; of OTB100, NfS30 and UAV123 also their frames.
        limit: so many sequences, the first ones; None: all. Synthetic sequences need it.
        synthetic: the difficulty of synthetic sequences.

    Raises:
        ConfigError: there is no such benchmark, or what it needs is not given.
        DataError: paths are missing (all of them are named), lists cannot be read, or there are no sequences.

    """
    benchmark = find_benchmark(name)
    if name == SYNTHETIC:
        if synthetic is None or limit is None or root is not None or names is not None:
            raise ConfigError(
                "synthetic: expected a configuration and a number of sequences, and neither root nor names"
            )
        return synthetic_sequences(synthetic, benchmark.split, limit)
    if root is None:
        raise ConfigError(f"{name}: expected the folder of the data set")
    needed = [*benchmark.paths(root, benchmark.split, names is not None), *([] if names is None else [names])]
    if missing := [path for path in dict.fromkeys(needed) if not path.exists()]:
        raise DataError("\n".join(f"{benchmark.title}: missing: {path}" for path in missing))
    lines = None if names is None else read_lines(names)
    if twice := [line for line, count in Counter(lines or ()).items() if count > 1]:
        raise DataError(f"{names}: names {twice[0]!r} twice")
    sequences = benchmark.read(root, benchmark.split, lines)
    if not sequences:
        raise DataError(f"{benchmark.title}: {root}: holds no sequences")
    return sequences[:limit]
