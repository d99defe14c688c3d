"""A visit to a machine with a GPU that is at hand for minutes: two commands, no network, all results in one folder.

    python tests/gpu/visit.py accuracy OUT     # versions; the tests for a GPU, in 14 processes, quick ones first
    python tests/gpu/visit.py speed OUT        # kernels against peers, host time, hardware counters, models, races
    python tests/gpu/visit.py publish OUT      # afterwards, anywhere: into results/published/ and docs/kernels.md
    python tests/gpu/visit.py wheels           # what to bring, and how

Each of the first two ends within `--seconds`, 350 unless given: each step has a limit of its own, steps that no longer
fit are left out, and `OUT/COMMAND.json` says what ran, how long, and what did not. `--dry` runs the same steps on a CPU
with small sizes. The code needs only the standard library, so that it can say what is missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
WHEELS = ROOT / ".wheels"
"""Wheels that were brought along; git ignores the folder."""

BROUGHT = ("msgspec", "flash-linear-attention", "fla-core")
"""Packages that such machines lack and the visit needs."""

EXPECTED = (
    "torch triton transformers tokenizers safetensors peft numpy pandas pyarrow matplotlib scipy sklearn rich jinja2 "
    "markupsafe PIL regex jaxtyping einops pynvml pytest xdist pytest_timeout hypothesis"
)
"""Modules that are there already; `wheels` says which are not."""

PYTEST = (sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default")
"""Warnings of other versions than those of constraints.txt are no errors."""

SHAPES = [f"8x{tokens}x16x{dim}" for dim in (64, 128) for tokens in (1024, 4096, 16384)]
OURS = "hedgehog+hedgehog-exp+softmax-flash+softmax-cudnn"
PEERS = "hedgehog+fla+fla-compiled-map"
"""Peers tune and compile for minutes, and an interrupted cell leaves nothing: they are timed in a run of their own."""

MODEL_CELL_S = 20
"""Time limit of a model's cell, whose measured points are then kept; those of an interrupted run are not."""

COUNTERS = (
    *("gpu__time_duration.sum", "sm__inst_issued.sum", "sm__inst_executed.sum", "sm__cycles_elapsed.max"),
    *("sm__inst_executed_pipe_alu.sum", "sm__inst_executed_pipe_fma.sum", "sm__inst_executed_pipe_xu.sum"),
    *("dram__bytes.sum", "lts__t_bytes.sum", "sm__warps_active.avg.pct_of_peak_sustained_active"),
    *("smsp__inst_executed_op_local_ld.sum", "smsp__inst_executed_op_local_st.sum"),
)

GRACE_S = 14.0
"""What an interrupted step gets to end: pytest waits 10 s for processes that compile before it writes its report."""


@dataclass(frozen=True)
class Step:
    """A command with its limit.

    Attributes:
        name: of the step and its log.
        command: as a list of words.
        seconds: after which it is interrupted.
        tool: a program that it needs; without it the step is left out.
    """

    name: str
    command: Sequence[str]
    seconds: float
    tool: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its exit code, None if it did not run; the seconds it took; why it did not end by itself."""

    name: str
    code: int | None
    seconds: float
    note: str = ""


def accuracy(out: Path, dry: bool) -> list[Step]:
    """Versions, then the tests for a GPU: bfloat16 first, whose kernels compile in seconds, then the others."""
    processes = "2" if dry else "14"
    options = (*PYTEST, "-v", "--tb=short", "-n", processes, "--dist", "worksteal", *gpu_tests())
    slow = "float32 or float16 or two_to_the_31"

    def suite(name: str, choose: str, seconds: float) -> Step:
        report = f"--junitxml={out / f'{name}.xml'}"
        return Step(name, (*options, report, "-k", f"not microseconds and {choose}"), seconds)

    return [
        *versions(),
        suite("bfloat16", f"not ({slow})", 200),
        suite("float32-float16", f"({slow})", 300),
    ]


def speed(out: Path, dry: bool) -> list[Step]:
    """Kernels first, as they matter most; hardware counters and races last."""
    device = "cpu" if dry else "cuda"
    shapes = ["1x256x2x64", "1x256x2x128"] if dry else SHAPES
    bench = (sys.executable, "-m", "hedgebench", "run", "--device", device, "--quiet", "--offline")
    scale = "smoke" if dry else "paper"
    passes = ("--scale", scale, "--tasks", "kernels/forward,kernels/backward", "--set", f"shapes={'+'.join(shapes)}",
              "--set", "min_time_ms=50")  # fmt: skip
    decoded = ["1x256x2x64"] if dry else ["64x4096x32x64", "64x4096x32x128"]
    lengths = "64" if dry else "4096,16384"
    timed = "prefill" if dry else "prefill+train+decode+compiled_prefill+compiled_train"
    kept = "prefill" if dry else "prefill+train+state"
    whole = f"throughput:modes={timed}:min_time_ms={1 if dry else 1000},memory:modes={kept}"
    call = (sys.executable, str(HERE / "call.py"), "--device", device)
    counted = ("--tokens", "64" if dry else "4096")
    counters = (
        *("ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw", "--print-units"),
        *("base", "--metrics", ",".join(COUNTERS), "--log-file", str(out / "counters.csv")),
    )
    return [
        *versions(),
        Step("compile", (sys.executable, str(HERE / "compile_first.py"), "--device", device, "--shapes", *shapes[::3],
                         "--processes", "2" if dry else "14"), 80),
        Step("kernels", (*bench, *passes, "--set", f"contenders={OURS}", "--output", str(out / "kernels")), 100),
        Step("decode", (*bench, "--scale", scale, "--tasks", "kernels/decode", "--set", f"shapes={'+'.join(decoded)}",
                        "--set", f"contenders={OURS}+{PEERS}", "--output", str(out / "decode")), 45),
        Step("host-time", (*PYTEST, "-k", "microseconds", "-rA", f"--junitxml={out / 'host-time.xml'}",
                           *gpu_tests("_microseconds")), 25),
        Step("counters", (*counters, *call, *counted), 30, "ncu"),
        Step("peers", (*bench, *passes, "--set", f"contenders={PEERS}", "--output", str(out / "peers")), 130),
        Step("models", (*bench, "--models", "softmax,hedgehog:map=softmax", "--tasks", whole, "--backbone", "gpt",
                        "--scale", scale, "--set", f"seq_lens={lengths}", "--timeout", str(MODEL_CELL_S), "--output",
                        str(out / "models")), 100),
        Step("races", ("compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "1", *call, "--tokens", "300",
                       "--batch", "1", "--heads", "2"), 40, "compute-sanitizer"),
    ]  # fmt: skip


def versions() -> list[Step]:
    return [
        Step("environment", (sys.executable, "-m", "hedgebench", "env"), 20),
        Step("packages", (sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"), 20),
        Step("device", ("nvidia-smi", "-q"), 10, "nvidia-smi"),
    ]


def gpu_tests(word: str = "pytest.mark.gpu") -> list[str]:
    """Files with tests for a GPU, or a word: collecting all takes a quarter of a minute in every process."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if word in path.read_text("utf-8")]


def run_steps(name: str, steps: Sequence[Step], out: Path, seconds: float) -> list[Outcome]:
    """Runs steps one after another within so many seconds in all, and writes how each ended after each."""
    out.mkdir(parents=True, exist_ok=True)
    ends, outcomes = time.monotonic() + seconds, list[Outcome]()
    for step in steps:
        left = ends - time.monotonic()
        if step.tool and shutil.which(step.tool) is None:
            outcomes.append(Outcome(step.name, None, 0.0, f"left out: {step.tool} is not there"))
        elif left <= GRACE_S:
            outcomes.append(Outcome(step.name, None, 0.0, "left out: no time was left"))
        else:
            outcomes.append(run_step(step, out / f"{name}-{step.name}.log", min(step.seconds, left - GRACE_S)))
        (out / f"{name}.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1), encoding="utf-8")
        last = outcomes[-1]
        print(f"{last.seconds:6.1f} s  {last.name}: exit code {last.code} {last.note}", flush=True)
    return outcomes


def run_step(step: Step, log: Path, seconds: float) -> Outcome:
    """Runs a command; at its limit interrupts it, which lets pytest write its report, and ends it `GRACE_S` later."""
    start, note = time.monotonic(), ""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            note = f"interrupted after {seconds:.0f} s"
            for sent in (signal.SIGINT, signal.SIGKILL):
                os.killpg(process.pid, sent)
                try:
                    process.wait(GRACE_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
    return Outcome(step.name, process.returncode, time.monotonic() - start, note)


def environment() -> dict[str, str]:
    """Variables of every step: our package and the wheels on the path, no network, compiled kernels kept."""
    kept = Path(tempfile.gettempdir()) / "hedgebench-visit"
    path = [str(ROOT / ".pyroot"), *([str(site())] if WHEELS.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "HF_HUB_OFFLINE": "1",
        "TRITON_CACHE_DIR": str(kept / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def site() -> Path:
    """The folder that the wheels are installed into, once."""
    folder = Path(tempfile.gettempdir()) / "hedgebench-visit" / "site"
    if not folder.is_dir():
        options = ("--no-index", "--no-deps", "--no-compile", "--quiet", "--target", str(folder))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, WHEELS.glob("*.whl"))], check=True)
    return folder


def wheels() -> None:
    """Says how to bring what such machines lack, and what is missing where this runs."""
    missing = [module for module in EXPECTED.split() if importlib.util.find_spec(module) is None]
    download = "python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp"
    platforms = "--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
    print(
        "With a network, for Python 3.12 on Linux:\n\n"
        f"  {download} {platforms} -d {WHEELS.name} {' '.join(BROUGHT)}\n\n"
        f"The folder {WHEELS.name}/ goes along with the checkout; the steps install it beside the machine's packages.\n"
        f"Of the modules that are expected to be there, this machine lacks: {', '.join(missing) or 'none'}."
    )


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command; 0 unless something did not run or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("accuracy", "speed", "publish", "wheels"))
    parser.add_argument("out", nargs="?", type=Path, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=350.0)
    parser.add_argument("--dry", action="store_true", help="small sizes on a CPU")
    asked = parser.parse_args(words)
    if asked.command == "wheels":
        wheels()
        return 0
    if asked.out is None:
        parser.error(f"{asked.command} needs the folder OUT")
    out = asked.out.resolve()
    if asked.command == "publish":
        sys.path.insert(0, str(HERE))
        return int(importlib.import_module("publish").publish(out, ROOT))
    steps = (accuracy if asked.command == "accuracy" else speed)(out, asked.dry)
    outcomes = run_steps(asked.command, steps, out, asked.seconds)
    return int(any(each.code not in (0, None) for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
