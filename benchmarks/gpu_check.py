"""Does skvae compute the same on a GPU as on the CPU, and how much of the GPU does it use?

One command of at most four minutes; it needs neither network nor an installed skvae:

    python benchmarks/gpu_check.py --out gpu.rst

First every estimator is fitted on the GPU and on the CPU (`_agreement.py`). Then large fits are timed
(`_workloads.py`), beside bare matrix products and copies in the same run. The tables are written as they grow. Without
a GPU the CPU takes its place, with small data. The exit status is 1 if anything failed.
"""

import argparse
import sys
import time
import traceback
import warnings
from pathlib import Path

import _checkout  # noqa: F401  (before whatever imports skvae)
import torch
from _agreement import cases, compared
from _protocol import forget_peak, peak_memory
from _workloads import workloads
from sklearn.exceptions import ConvergenceWarning

N_ROWS = {"full": 1000, "small": 400, "smoke": 100}  # of the tables that both devices are compared on


class Device:
    """A GPU or the CPU: what it is, how long work on it takes and how much memory.

    All that is CUDA's own stands in this class.
    """

    def __init__(self, name):
        self.on_gpu = torch.device(name).type == "cuda"
        self.torch = torch.empty(0, device=name).device  # with its number; CUDA is ready from here on

    def __str__(self):
        if not self.on_gpu:
            return f"CPU, {torch.get_num_threads()} threads"
        card = torch.cuda.get_device_properties(self.torch)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"

    def measured(self, work):
        """Seconds until the work is done, and by how many bytes it raised the peak of memory."""
        self.wait()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.torch)
            before = torch.cuda.memory_allocated(self.torch)
        else:
            before = forget_peak()
        start = time.perf_counter()
        work()
        self.wait()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated(self.torch) if self.on_gpu else peak_memory()
        return seconds, peak - before

    def wait(self):
        """Return when all that was asked of the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.torch)

    def best_seconds(self, work, repeats=5):
        return min(self.measured(work)[0] for _ in range(repeats + 1))

    def product_rate(self, n):
        """Operations a second of a float32 product of two n x n matrices."""
        generator = torch.Generator(self.torch).manual_seed(0)  # equal numbers would take less power, and less time
        a, b = (torch.rand(n, n, generator=generator, device=self.torch) for _ in range(2))
        return 2 * n**3 / self.best_seconds(lambda: torch.matmul(a, b))

    def copy_rate(self, n):
        """Bytes a second, read and written, of a copy of n float32 numbers."""
        a = torch.zeros(n, device=self.torch)
        b = torch.zeros_like(a)
        return 8 * n / self.best_seconds(lambda: b.copy_(a))


class Report:
    """Two tables, which are printed row by row and written to a file whenever they grow."""

    def __init__(self, path, device):
        self.path, self.head, self.n_failed = path, f"{device}; torch {torch.__version__}", 0
        self.notes, self.agreement, self.speed = [], [], []
        print(self.head, flush=True)

    def note(self, text):
        self.notes.append(text)
        print(text, flush=True)
        self.write()

    def add(self, table, *cells):
        table.append(cells)
        print("  " + " | ".join(cells).replace("``", ""), flush=True)
        self.write()

    def failed(self, what):
        """Count an error that is being handled, and print where it came from."""
        self.n_failed += 1
        traceback.print_exc(file=sys.stdout)
        error = traceback.format_exception_only(sys.exception())[-1].splitlines()[0].replace("`", "'")
        self.note(f"FAIL {what}: ``{error}``")

    def write(self):
        if self.path:
            self.path.write_text(self.text())

    def text(self):
        """Everything so far, as reStructuredText."""
        lines = [self.head, ""] + [f"- {note}" for note in self.notes]
        for titles, rows in ((AGREEMENT, self.agreement), (SPEED, self.speed)):
            if rows:
                lines += ["", ".. list-table::", "   :header-rows: 1", ""]
                for first, *others in (titles, *rows):
                    lines += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
        return "\n".join(lines) + "\n"


AGREEMENT = ("Fit", "Result", "Fitted there", "Predicted there", "Tolerance", "Largest in")
SPEED = (
    "Work",
    "Rows",
    "Whole fit, s",
    "A pass, ms",
    "Rows a second",
    "Peak memory, MiB",
    "Of the product limit",
    "Of the copy limit",
)


def check_agreement(device, n, report, left):
    """Compare all cases, as long as half of the time is left."""
    enough = left() / 2
    for done, case in enumerate(cases(n)):
        if left() < enough:
            report.note(f"Time is short: only the first {done} comparisons were made.")
            return
        try:
            found = compared(case, str(device.torch))
        except Exception:
            report.failed(case.name)
            continue
        passed = max(found.fitted, found.predicted) <= case.tolerance
        report.n_failed += not passed
        cells = (f"{number:.0e}" for number in (found.fitted, found.predicted, case.tolerance))
        report.add(report.agreement, case.name, "PASS" if passed else "FAIL", *cells, f"``{found.worst}``")


def check_speed(device, size, report, left):
    """Measure all workloads that there is time for."""
    rate = device.product_rate(8192 if device.on_gpu else 1024)
    bandwidth = device.copy_rate(2**28 if device.on_gpu else 2**25)
    report.note(
        f"Bare float32 matrix products: {rate / 1e12:.3g} TFLOP/s (precision "
        f"{torch.get_float32_matmul_precision()!r}); bare copies: {bandwidth / 1e9:.3g} GB/s read and written."
    )
    for workload in workloads(size):
        if left() < workload.needs:
            report.note(f"{workload.name}: skipped, since {left():.0f} s are left and it may need {workload.needs}.")
            continue
        try:
            measure(workload, device, report, left, rate, bandwidth)
        except Exception:
            report.failed(workload.name)


def measure(workload, device, report, left, rate, bandwidth):
    """One row of the table: a short and a long fit, whose difference is passes only, without what is done once."""
    X = workload.make()
    model = workload.estimator.set_params(device=str(device.torch))
    n, (short, long) = X.shape[0], workload.passes
    fit(model, X[: min(n, 1000)], 1)  # libraries loaded, kernels built
    seconds, peak = device.measured(lambda: fit(model, X, short))
    done = model.n_iter_
    # A long fit takes at most so many times as long; it is made shorter where that would be too long.
    long = min(long, int(short * 0.8 * left() / seconds))
    whole = seconds
    if long > short:
        whole, peak = device.measured(lambda: fit(model, X, long))
    if model.n_iter_ > done and whole > seconds:
        a_pass = (whole - seconds) / (model.n_iter_ - done)
    else:
        a_pass = whole / model.n_iter_
        report.note(f"{workload.name}: a pass includes its part of what is done once.")
    report.add(
        report.speed,
        workload.name,
        workload.size,
        f"{whole:.2f}",
        f"{1000 * a_pass:.3g}",
        f"{n / a_pass:,.0f}",
        f"{peak / 2**20:,.0f}",
        f"{workload.work.flops / rate / a_pass:.1%}",
        f"{workload.work.bytes / bandwidth / a_pass:.1%}",
    )
    if workload.then:
        name, n, work = workload.then(model, X)
        work()
        seconds, peak = device.measured(work)
        cells = ("", f"{1000 * seconds:.3g}", f"{n / seconds:,.0f}", f"{peak / 2**20:,.0f}", "", "")
        report.add(report.speed, name, f"{n:,} users", *cells)


def fit(model, X, max_iter):
    return model.set_params(max_iter=max_iter).fit(X)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the tables, in reStructuredText")
    parser.add_argument("--seconds", type=float, default=240, help="what would take longer is left out; default: 240")
    parser.add_argument("--device", help='default: "cuda" where there is a GPU, else "cpu"')
    parser.add_argument("--size", choices=N_ROWS, help="default: full on a GPU, small on the CPU")
    args = parser.parse_args(arguments)
    until = time.monotonic() + args.seconds
    warnings.simplefilter("ignore", ConvergenceWarning)  # fits are short on purpose
    device = Device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = args.size or ("full" if device.on_gpu else "small")
    report = Report(args.out, device)
    if not device.on_gpu:
        report.note("No GPU: the CPU is compared with itself.")
    check_agreement(device, N_ROWS[size], report, lambda: until - time.monotonic())
    check_speed(device, size, report, lambda: until - time.monotonic())
    report.note(
        f"{report.n_failed} failed; {len(report.agreement)} comparisons and {len(report.speed)} measurements were made."
    )
    return 1 if report.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
