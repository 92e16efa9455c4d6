"""The emulation itself: every primitive against its documented layout, and planted faults that have to be found."""

import json
import re

import numpy as np
import pytest
import torch

from tests.grm_kernels import emulated

pytestmark = emulated.needs_compiler
SCHEDULES = ["first_in", "last_in", "random"]
LANES = np.arange(32)
G, T = LANES // 4, LANES % 4  # as the PTX manual names a lane's group and its number in it


def options(schedule="first_in", seed=0, **others):
    return emulated.emulation().Options(getattr(emulated.emulation().Schedule, schedule), seed, **others)


@pytest.fixture(scope="module", params=SCHEDULES)
def outputs(request):
    """Words of the conformance program: case to [32 lanes, 4]."""
    results = emulated.emulation().conformance(options(request.param, seed=7))
    return {name: np.array(words, dtype=np.uint32).reshape(32, 4) for name, words in results.items()}


# ---- layouts, written from the manual and not from the emulation ----


def test_matrices(outputs):
    """ldmatrix: lanes 8m..8m+7 name the rows of matrix m; lane 4g + t gets elements 2t, 2t + 1 of row g."""
    rows = np.arange(256).reshape(32, 8)  # element e of the memory is e
    matrices = rows[LANES * 5 % 32].reshape(4, 8, 8)
    for name, of in (("load_matrices", matrices), ("load_matrices_transposed", matrices.transpose(0, 2, 1))):
        expected = np.stack([of[m, G, 2 * T] | of[m, G, 2 * T + 1] << 16 for m in range(4)], axis=1)
        np.testing.assert_array_equal(outputs[name], expected, name)


@pytest.mark.parametrize("element", ["bfloat16", "half"])
def test_multiply(outputs, element):
    """mma.m16n8k16: the matrices that the fragments of the manual stand for, multiplied."""

    def integer(i):
        return i * 7 % 31 - 15

    a, b, c = np.zeros((16, 16)), np.zeros((16, 8)), np.zeros((16, 8))
    for i in range(8):  # of a: register i / 2, half i % 2
        row = np.where((i // 2) % 2 == 0, G, G + 8)
        column = 2 * T + i % 2 + np.where(i >= 4, 8, 0)
        a[row, column] = integer(8 * LANES + i)
    for i in range(4):  # of b
        b[2 * T + i % 2 + np.where(i >= 2, 8, 0), G] = integer(4 * LANES + i + 5)
    for i in range(4):  # of c and d
        c[np.where(i < 2, G, G + 8), 2 * T + i % 2] = 4 * LANES + i
    d = a @ b + c
    expected = np.stack([d[np.where(i < 2, G, G + 8), 2 * T + i % 2] for i in range(4)], axis=1)
    np.testing.assert_array_equal(outputs[f"multiply_{element}"].view(np.float32), expected)


def test_exchange_between_lanes(outputs):
    shuffled = outputs["shuffle_xor"]
    np.testing.assert_array_equal(shuffled[:, 0], 3 * (LANES ^ 1) + 1)
    np.testing.assert_array_equal(shuffled[:, 1], 3 * (LANES ^ 6) + 1)
    np.testing.assert_array_equal(shuffled[:, 2].view(np.float32), 0.5 * (LANES ^ 16))
    np.testing.assert_array_equal(shuffled[:, 3], 0x80000000 + (LANES ^ 31))
    expected = [sum(1 << i for i in range(0, 32, 3)), 0xFFFF0000, 0xFFFFFFFF, 0]
    np.testing.assert_array_equal(outputs["ballot"], np.tile(np.array(expected, dtype=np.uint32), (32, 1)))


def test_copies(outputs):
    source = (np.arange(128, dtype=np.uint64) * 0x9E3779B9 % 2**32).reshape(32, 4)
    source[LANES % 4 == 1] = 0
    np.testing.assert_array_equal(outputs["copy_async"], source[LANES ^ 3])


def odd_numbers():
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F801000, 0x3F803000, 0x477FEFFF, 0x477FF000]
    bits += [0x7F7FFFFF, 0x33800000, 0x33000000, 0x38000000, 0x00000000, 0x80000000, 0x7F800000, 0x7FC00000]
    return lambda i: np.uint32(bits[i % 16] ^ (0x80000000 if i // 16 % 2 else 0)).view(np.float32)


def test_arithmetic(outputs):
    number = odd_numbers()
    numbers = torch.tensor([number(i) for i in range(256)])
    pairs = torch.stack([numbers[LANES], numbers[LANES + 1]], dim=1)
    for column, dtype in ((0, torch.bfloat16), (1, torch.float16)):
        words = torch.from_numpy(outputs["pack"][:, column : column + 1].astype(np.uint32).view(np.uint16).copy())
        torch.testing.assert_close(words.view(dtype).float(), pairs.to(dtype).float(), rtol=0, atol=0, equal_nan=True)

    halves = outputs["unpack"].view(np.float32)
    words = np.stack([base + 0x00810101 * LANES for base in (0x3F80C000, 0x3C00C000)]).astype(np.uint32)
    bfloat16 = (words[0].view(np.uint16).reshape(32, 2).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(halves[:, :2], bfloat16)
    np.testing.assert_array_equal(halves[:, 2:], words[1].view(np.float16).reshape(32, 2).astype(np.float32))

    lanes = LANES.astype(np.float32)
    exponents = np.stack([np.float32(1.37) * (lanes - 20), np.float32(-9.3) * lanes, numbers[LANES].numpy()], axis=1)
    with np.errstate(over="ignore"):
        exact = np.exp2(exponents.astype(np.float64))
    exact[exact < 2.0**-126] = 0  # subnormal
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(outputs["exp2"][:, :3].view(np.float32), exact.astype(np.float32), rtol=2**-22)
    logs = np.log(np.stack([np.float32(0.37) * (lanes + 1), np.float32(1e4) * (lanes + 1)], axis=1).astype(np.float64))
    np.testing.assert_allclose(outputs["log"][:, :2].view(np.float32), logs, rtol=2**-23, atol=1e-8)

    a, b = numbers[LANES].numpy(), numbers[LANES * 7 + 3].numpy()
    np.testing.assert_array_equal(outputs["maximum"][:, 0].view(np.float32), np.fmax(a, b))
    np.testing.assert_array_equal(outputs["minimum_or_nan"][:, 0].view(np.float32), np.minimum(a, b))
    bits = [int(i * 0x9E3779B9 % 2**32).bit_count() for i in range(32)]
    np.testing.assert_array_equal(outputs["count_bits"][:, 0], bits)


def test_coordinates(outputs):
    expected = np.stack([LANES, np.full(32, 32), np.zeros(32), LANES], axis=1)
    np.testing.assert_array_equal(outputs["coordinates"], expected)


def recorded() -> dict[str, dict[str, list[int]]]:
    """What csrc/cuda/conformance.cu printed on hardware, by the record that holds it (benchmarks/gpu_record.py)."""
    found = {}
    for path in sorted((emulated.ROOT / "benchmarks" / "results").glob("gpu_*.json")):
        step = json.loads(path.read_text())["steps"].get("conformance", {"ok": False})
        if step["ok"]:
            found[path.stem] = step["result"]
    return found


RECORDED = recorded()


def numbers_of(name: str, words: np.ndarray) -> np.ndarray:
    """Words as what they stand for: a NaN has many patterns, and hardware another one than this processor."""
    if name == "pack":
        bfloat16 = torch.from_numpy(words[:, :1].copy().view(np.int16)).view(torch.bfloat16).float().numpy()
        return np.concatenate([bfloat16, words[:, 1:2].copy().view(np.float16).astype(np.float32)], axis=1)
    return words.view(np.float32) if name in ("exp2", "log", "maximum", "minimum_or_nan", "unpack") else words


@pytest.mark.skipif(not RECORDED, reason="no GPU has run the conformance program yet")
@pytest.mark.parametrize("record", RECORDED)
def test_a_gpu_gave_the_same(outputs, record):
    """Approximate functions to two units in the last place."""
    assert set(RECORDED[record]) == set(outputs)
    for name, words in RECORDED[record].items():
        expected = numbers_of(name, np.array(words, dtype=np.uint32).reshape(32, 4))
        if name in ("exp2", "log"):
            np.testing.assert_allclose(numbers_of(name, outputs[name]), expected, rtol=2**-21, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(numbers_of(name, outputs[name]), expected, name)


# ---- faults ----

# What is wrong with a kernel of csrc/emulation/faulty.h, and how the report begins.
WHO = r"faulty, block 0, warp \d lane \d+ \(faulty.h:\d+\): "
RACE = WHO + r"race: (reads|writes) 4 bytes at shared address \d+, no barrier after warp \d lane \d+ (read|wrote) there"
EARLY = f"({RACE}|{WHO}reads .*, which was never written)"  # by the schedule: before or after the write
COPYING = WHO + r"(reads|writes) .*, the target of an asynchronous copy of warp \d lane \d+ .* that has not been waited"
MEETING = r"faulty, block 0: cannot meet: .*warp 0 lanes .* at "
FAULTS = {
    "no barrier after a write": EARLY,
    "no barrier before the next write": RACE,
    "only a warp barrier between warps": EARLY,
    "a shuffle is no barrier": RACE,
    "two lanes write one word": RACE,
    "too weak a wait": COPYING,
    "a wait for what was not committed": COPYING,
    "no barrier after a wait": f"({EARLY}|{COPYING})",
    "a copy over what is still read": f"({RACE}|{COPYING})",
    "a copy that nobody waits for": WHO + "ends with asynchronous copies under way",
    "a warp skips a barrier": MEETING + r"block_barrier.*warp 1 .*finished",
    "a warp skips the first of two barriers": MEETING + r"block_barrier \(faulty.h:\d+\); .*warp 1 .*block_barrier",
    "a shuffle in a divergent branch": MEETING + r"shuffle_xor.* finished",
    "a barrier and a shuffle": MEETING + r".*shuffle_xor",
    "a word beyond shared memory": WHO + "writes 4 bytes at shared address 124, beyond the 124 declared",
    "a matrix row beyond shared memory": WHO + "reads 16 bytes at shared address 496, beyond the 496 declared",
    "a matrix row that is not aligned": WHO + "reads 16 bytes at shared address .*, which is not aligned",
    "a word that was never written": WHO + "reads 4 bytes at shared address .*, which was never written",
    "a word beyond global memory": WHO + "reads 4 bytes of global memory that no argument covers",
    "an input that is written": WHO + "writes global memory of input, which is for reading",
    "an output that is written twice": WHO + "writes byte .* of output a second time",
}


def test_every_fault_is_here():
    assert {name for name in emulated.emulation().faults() if not name.startswith("none")} == set(FAULTS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, schedule):
    module = emulated.emulation()
    for seed in range(10 if schedule == "random" else 1):
        with pytest.raises(module.Fault) as caught:
            module.run_faulty(fault, options(schedule, seed))
        assert re.match(FAULTS[fault], str(caught.value)), caught.value


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_right_passes(schedule):
    module = emulated.emulation()
    for seed in range(10):
        for name in module.faults():
            if name.startswith("none"):
                module.run_faulty(name, options(schedule, seed))
    output = module.run_faulty("none: barriers where they belong", options(schedule))
    assert output == [(i + 1) % 64 + 2 for i in range(64)]
