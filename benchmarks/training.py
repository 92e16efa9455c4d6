"""Times a training step with each form of attention: ``python -m benchmarks.training``.

The step is the trainer's own: forward, loss, backward, clipping, AdamW. Models with the same weights, the same noise
and samples differ in their attention only, and make a step in turn, round after round; the shortest of each counts. The
attention's part is measured inside the step: forward from its inputs to its output, backward from the gradient of the
output to those of the inputs, summed over the layers that divide.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import machine, record
from benchmarks.compare import WrongResultError
from grm.config import Config, load_config
from grm.data.sample import Sample
from grm.model import GRM, encoder
from grm.training import Processes, TrainingStep
from grm.training.stream import Position
from grm_kernels import masked_attention, separate_attention

#: Forms of attention. "separate" gives the policy no gradient: its step leaves the division modules as they are.
FORMS = ("fused", "masked", "separate")
#: What the encoder calls in layers that divide, by form; for "separate", with which it refuses to train, in its place.
_PACKED = "category_attention_packed"
_FUNCTIONS = {"fused": _PACKED, "masked": "masked_attention", "separate": _PACKED}
#: Names of the marks.
FORWARD, BACKWARD, END = "attention forward", "attention backward", "attention ends"


@dataclass(frozen=True)
class Case:
    """One row: a preset's model, the number of pairs in the batch, and what the products are computed in."""

    preset: str
    batch: int
    precision: str = "float32"


CASES = (
    Case("grm_b256", 4),
    Case("grm_b256", 8),
    Case("grm_b256", 8, "bfloat16"),
    Case("grm_tiny", 32),
    Case("grm_tiny", 32, "bfloat16"),
)


class Stopwatch:
    """Seconds spent in attention; its beginnings and ends are marks in a profile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def start(self, mark: str) -> None:
        """Attention begins."""
        with torch.profiler.record_function(mark):
            self._begin = time.perf_counter()

    def stop(self) -> None:
        """Attention ends."""
        self.seconds += time.perf_counter() - self._begin
        with torch.profiler.record_function(END):
            pass


class _Enter(torch.autograd.Function):
    """Before attention: the clock starts forward, and stops backward when the gradients of all inputs are there."""

    @staticmethod
    def forward(ctx, watch: Stopwatch, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.watch = watch
        outputs = tuple(x.view_as(x) for x in inputs)
        watch.start(FORWARD)
        return outputs

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.watch.stop()
        return None, *gradients


class _Leave(torch.autograd.Function):
    """After attention: the clock stops forward, and starts backward."""

    @staticmethod
    def forward(ctx, watch: Stopwatch, output: Tensor) -> Tensor:
        watch.stop()
        ctx.watch = watch
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        ctx.watch.start(BACKWARD)
        return None, gradient


@contextmanager
def timed_attention(form: str, watch: Stopwatch) -> Iterator[None]:
    """While entered, attention in layers that divide is of this form, and under the stopwatch."""
    attend = getattr(encoder, _FUNCTIONS[form])

    def fused(qkv: Tensor, categories: Tensor, policy: Tensor | None = None, **options) -> Tensor:
        if policy is None:
            return attend(qkv, categories, **options)
        qkv, policy = _Enter.apply(watch, qkv, policy)
        return _Leave.apply(watch, attend(qkv, categories, policy, **options))

    def masked(q: Tensor, k: Tensor, v: Tensor, policy: Tensor, **options) -> Tensor:
        return _Leave.apply(watch, attend(*_Enter.apply(watch, q, k, v, policy), **options))

    def separate(qkv: Tensor, categories: Tensor, policy: Tensor | None = None, **options) -> Tensor:
        if policy is None:
            return attend(qkv, categories, **options)
        return _Leave.apply(watch, separate_attention(*_Enter.apply(watch, *encoder.unpack(qkv)), categories))

    with mock.patch.object(encoder, _FUNCTIONS[form], {"fused": fused, "masked": masked, "separate": separate}[form]):
        yield


def make_batch(config: Config, count: int) -> Sample:
    """Pairs of noise; the boxes lie in the search region."""
    generator = torch.Generator().manual_seed(0)

    def images(size: int) -> Tensor:
        return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)

    boxes = torch.rand(count, 4, generator=generator) * 0.3 + torch.tensor([0.35, 0.35, 0.1, 0.1])
    template, search = images(config.model.template.size), images(config.model.search.size)
    return Sample(template, search, boxes, boxes, torch.ones(count, 2), [""] * count)


def make_step(case: Case, form: str, processes: Processes) -> TrainingStep:
    """The trainer's step of a preset with new weights, the same for every form."""
    attention = "masked" if form == "masked" else "fused"
    overrides = [f"model.encoder.attention={attention}", f"training.precision={case.precision}", "training.seed=0"]
    config = load_config(case.preset, overrides)
    torch.manual_seed(0)
    return TrainingStep(GRM(config.model), config, processes)


def loss_and_gradient(step: TrainingStep, batch: Sample, part: str) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient, as one vector, of all parameters with `part` in their names."""
    step.optimizer.zero_grad()
    losses, _ = step.losses(batch, Position(0, 0))
    losses.total.backward()
    parameters = [p for name, p in step.model.named_parameters() if part in name]
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    step.optimizer.zero_grad()
    return losses.total.detach(), gradient


#: What is compared of a form, by part of the parameters' names: all attention has a part in the division modules'
#: gradients; the separate form gives the policy none, so its q, k, v projections are compared.
_COMPARED = {"fused": ".division.", "separate": ".qkv."}


def check_agreement(case: Case, form: str, step: TrainingStep, masked: TrainingStep, batch: Sample) -> None:
    """Compares a form's loss and gradients with the masked form's in float32.

    The separate form is compared with one whose policy gets no gradient. A form may be off, in norm, by twice as much
    as the masked form at its own precision, plus 1%: rounding decides single tokens differently.

    Raises:
        WrongResultError: one is.

    """
    exact = make_step(replace(case, precision="float32"), "masked", masked.processes)

    def without_policy(q: Tensor, k: Tensor, v: Tensor, policy: Tensor, **options) -> Tensor:
        return masked_attention(q, k, v, policy.detach(), **options)

    part = _COMPARED[form]
    reference = masked_attention if form == "fused" else without_policy
    with mock.patch.object(encoder, "masked_attention", reference):
        expected, low = (loss_and_gradient(s, batch, part) for s in (exact, masked))
    with timed_attention(form, Stopwatch()):
        actual = loss_and_gradient(step, batch, part)
    for what, a, m, e in zip(("loss", f"gradient of {part}"), actual, low, expected, strict=True):
        error, bound = (a - e).norm() / e.norm(), 2 * (m - e).norm() / e.norm() + 0.01
        if not error <= bound:
            raise WrongResultError(f"{form}: {what} is {error:.2%} off, bound {bound:.2%}")


def memory(run: Callable[[], object]) -> dict[str, int]:
    """Bytes of a step's tensors on the CPU, from the allocations that a profile of it shows.

    Returns:
        "peak": most that is held at a time, over what was held before; "attention_kept": what the attention of all
        layers keeps for its backward pass, its outputs included; "attention_rise": most that one call, forward or
        backward, holds over what was held when it began.

    """
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = peak = kept = rise = 0
    mark, before = END, 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
            if mark != END:
                rise = max(rise, held - before)
        elif event.name() in (FORWARD, BACKWARD):
            mark, before = event.name(), held
        elif event.name() == END:
            kept += held - before if mark == FORWARD else 0
            mark = END
    return {"peak": peak, "attention_kept": kept, "attention_rise": rise}


def measure(case: Case, budget_s: float) -> list[dict]:
    """Times a case for every form, interleaved, for `budget_s` seconds, 3 rounds at least.

    Raises:
        WrongResultError: the forms disagree.

    """
    processes = Processes(0, 1, torch.device("cpu"))
    steps = {form: make_step(case, form, processes) for form in FORMS}
    config = steps["fused"].config
    batch = make_batch(config, case.batch)
    for form in _COMPARED:
        check_agreement(case, form, steps[form], steps["masked"], batch)
    best = {form: {"step": float("inf"), "attention": float("inf")} for form in steps}
    bytes_of: dict[str, dict[str, int]] = {}
    rounds, begin = 0, time.perf_counter()
    while rounds < 4 or time.perf_counter() - begin < budget_s:
        # In the first, memory is measured: the optimiser has its moments by then, and what is made once is made.
        for form, step in steps.items():
            watch = Stopwatch()

            def run(step: TrainingStep = step, number: int = rounds) -> None:
                step([batch], [Position(number, 0)], epoch_steps=10**9)

            with timed_attention(form, watch):
                if rounds == 0:
                    run()
                    bytes_of[form] = memory(run)
                    continue
                start = time.perf_counter()
                run()
                best[form]["step"] = min(best[form]["step"], time.perf_counter() - start)
                best[form]["attention"] = min(best[form]["attention"], watch.seconds)
        rounds += 1
    tokens = config.model.template_tokens + config.model.search_side**2
    sizes = {
        "tokens": tokens,
        "layers": len(config.model.division_layers),
        # Of one matrix of scores of all heads in a batch, in float32.
        "matrix": 4 * case.batch * config.model.encoder.heads * tokens**2,
    }
    return [
        {"form": form, **asdict(case), **sizes, "seconds": best[form], "bytes": bytes_of[form], "rounds": rounds - 1}
        for form in steps
    ]


def run(cases: tuple[Case, ...], budget_s: float) -> dict:
    """Measures all cases and returns the record: machine, rates, measurements."""
    from rich.progress import track

    dtypes = sorted({getattr(torch, case.precision) for case in cases}, key=str)
    result = {
        "kind": "training, cpu",
        "date": date.today().isoformat(),
        "machine": machine.describe(),
        "matrix_rate": {str(dtype): machine.matrix_rate(dtype) for dtype in dtypes},
        "measurements": [],
    }
    for case in track(cases, description="measuring"):
        result["measurements"] += measure(case, budget_s)
    return result


def main() -> None:
    """Measures, prints the table, writes the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", action="append", help="only cases of this preset; repeatable")
    parser.add_argument("--precision", action="append", help="only cases of this precision; repeatable")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for a case (default 60)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the record")
    options = parser.parse_args()

    cases = tuple(
        case
        for case in CASES
        if (not options.preset or case.preset in options.preset)
        and (not options.precision or case.precision in options.precision)
    )
    if not cases:
        parser.error(
            f"--preset: expected one of {', '.join(dict.fromkeys(c.preset for c in CASES))}; "
            f"--precision: one of {', '.join(dict.fromkeys(c.precision for c in CASES))}"
        )
    measured = run(cases, options.budget)
    path = options.output / "training_cpu.json"
    record.finish(measured, path)


if __name__ == "__main__":
    main()
