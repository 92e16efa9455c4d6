"""The tracker in the paper's forms, frame by frame on a CPU: ``python -m benchmarks.tracker``."""

import argparse
import itertools
import time
from pathlib import Path

import torch

from benchmarks import machine, record
from grm.config import SyntheticConfig, load_config
from grm.data.synthetic import HELD_OUT, synthetic_sequence
from grm.evaluation.forms import balance_division
from grm.evaluation.speed import compare_dtypes, measure_forms, noise_scene, time_parts
from grm.model import GRM

PRESETS = ("grm_b256", "grm_tiny")
DTYPES = (torch.float32, torch.bfloat16)


def measure(preset: str, dtype: torch.dtype, rounds: int, frames: int) -> dict:
    """One preset with new weights, brought to half of the search tokens in S, on a frame of 1280 x 720.

    The form with layers fixed has every second dividing layer all S; the others go on dividing.
    """
    torch.manual_seed(0)
    model = GRM(load_config(preset).model)
    frame, box = noise_scene()
    balance_division(model, frame, box, 0.5)
    fixed = dict.fromkeys(model.config.division_layers[::2], "S")
    speeds = measure_forms(model, frame, box, dtype=dtype, fixed=fixed, rounds=rounds)
    video = synthetic_sequence(SyntheticConfig(frames=frames), HELD_OUT)
    images = (video.frame(index) for index in range(len(video)))
    return {
        "preset": preset,
        "dtype": str(dtype).removeprefix("torch."),
        "forms": {s.form: {**s._asdict(), "total": s.total} for s in speeds},
        "parts": time_parts(model, frame, box, dtype=dtype),
        "agreement": compare_dtypes(model, images, video.boxes[0], dtype)._asdict(),
    }


def run(presets: tuple[str, ...], rounds: int, frames: int = 80) -> dict:
    """Measures all, on `frames` of a synthetic video where dtypes are compared, and returns the record."""
    return {
        "kind": "tracker",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "rounds": rounds,
        "measurements": [
            measure(preset, dtype, rounds, frames) for preset, dtype in itertools.product(presets, DTYPES)
        ],
    }


def main() -> None:
    """Measures, prints the table, writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracker", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", help="several times for several (default: grm_b256, grm_tiny)")
    parser.add_argument("--rounds", type=int, default=40, help="frames of each form (default 40)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    options = parser.parse_args()
    measured = run(tuple(options.preset or PRESETS), options.rounds)
    path = options.output / "tracker_cpu.json"
    record.finish(measured, path)


if __name__ == "__main__":
    main()
