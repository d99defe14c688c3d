"""Data parallel training: several processes of this machine, one for each device, share the rows of every batch.

The process that calls `train` is the first. It alone validates, writes checkpoints and decides when training ends; the
others are started for one training, get a copy of the run, and end with it. DistributedDataParallel adds up the
gradients, by NCCL between GPUs and by gloo between processes on the CPU. Each loss is a sum divided by the targets of
the whole batch, so a step equals that of one process up to rounding, however many rows or targets a process has.
Dropout and random changes of images are drawn in each process; those of the first come from the same stream as if it
were alone, and those of the others are seeded at each step, so that a resumed training goes on with them.
"""

from __future__ import annotations

import importlib
import io
import marshal
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import IO, Any, NoReturn, Protocol, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.nn.parallel import DistributedDataParallel

from ..base import Examples, UnsupportedError
from ..precision import Precision
from .objective import Objective

HOST = "127.0.0.1"
WAIT = timedelta(days=7)
"""Longest time that processes wait for the first, while it validates or writes a checkpoint."""
STEP = timedelta(minutes=30)
"""Longest time that a GPU waits for the others' gradients; if one of the processes ended, the run finds out then."""
EXIT_S = 10.0
"""Seconds in which the other processes end by themselves."""

_READY = "ready"
"""Key under which the meeting point counts the other processes that have read the run."""
_POLL_S = 0.05
_FOLLOW = "from hedgebench.adapters.training.sharing import follow; follow()"


class SharedRun(Protocol):
    """A training run, as far as its processes share it."""

    model: nn.Module
    examples: Examples
    objective: Objective
    precision: Precision
    seed: int
    step: int
    share: Share | None

    def advance(self) -> float:
        """Takes one optimiser step."""
        ...

    def for_others(self) -> SharedRun:
        """A copy for the other processes, which only take steps."""
        ...


class _Loss(nn.Module):
    """The loss of some rows as the output of a module, whose gradients DistributedDataParallel adds up."""

    def __init__(self, run: SharedRun) -> None:
        super().__init__()
        self.model = run.model
        self.run = run

    def forward(self, rows: NDArray[Any]) -> Tensor:
        run = self.run
        with run.precision.autocast():
            return run.objective.loss(self.model, run.examples, rows, run.precision.device)


@dataclass(frozen=True)
class Rank:
    """A process among those that share a training.

    Attributes:
        number: Its number; the first process is 0.
        ranks: Number of processes.
        port: Port of this machine at which they find each other.
        threads: Threads of each.
    """

    number: int
    ranks: int
    port: int
    threads: int


class Share:
    """A process's share of a training run.

    Args:
        run: The run.
        rank: The process.
        store: Where processes find each other.
    """

    def __init__(self, run: SharedRun, rank: Rank, store: Store) -> None:
        self.run = run
        self.rank = rank
        on_cuda = run.precision.device.type == "cuda"
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.ranks, timeout=WAIT)
        self.parallel = DistributedDataParallel(
            _Loss(run),
            process_group=dist.new_group(timeout=STEP, backend="nccl") if on_cuda else None,
            find_unused_parameters=True,
        )

    def accumulate_gradients(self, rows: NDArray[Any], parts: int) -> tuple[float, Mapping[str, float]]:
        """Gradients of the mean loss over the targets of `rows`; returns that loss and the means of its parts.

        Args:
            rows: Rows of the batch, the same in each process.
            parts: Parts that the batch is split into; each process has its share of every part.
        """
        run, rank = self.run, self.rank
        if rank.number == 0:
            self.tell(goes_on=True)
        counted = run.objective.count(run.examples, rows)
        own = [np.array_split(part, rank.ranks)[rank.number] for part in np.array_split(rows, parts)]
        total = 0.0
        for number, part in enumerate(own, 1):
            with nullcontext() if number == parts else self.parallel.no_sync():
                loss = self.parallel(part) / max(1, counted)
                torch.autograd.backward(loss * rank.ranks)  # DistributedDataParallel takes the mean over processes
            total += float(loss.detach())
        details, weight = run.objective.details(), run.objective.count(run.examples, np.concatenate(own))
        sums = torch.tensor([total, *(value * weight for value in details.values())], dtype=torch.float64)
        dist.all_reduce(sums)
        loss_of_all, *others = sums.tolist()
        return loss_of_all, {name: value / counted for name, value in zip(details, others, strict=True)}

    def tell(self, *, goes_on: bool) -> None:
        """Lets the other processes take a step, or end."""
        dist.broadcast(torch.tensor([int(goes_on)]), src=0)

    def goes_on(self) -> bool:
        """Whether the first process has the others take a step, once it has told them."""
        told = torch.empty(1, dtype=torch.int64)
        dist.broadcast(told, src=0)
        return bool(told)


@contextmanager
def shared(run: SharedRun, devices: int) -> Iterator[None]:
    """Within the block, steps of `run` are shared with `devices - 1` other processes; nothing is done for one device.

    Raises:
        UnsupportedError: There are fewer devices, or the model cannot be copied to other processes.
        RuntimeError: Another process failed.
    """
    if devices == 1:
        yield
        return
    device = run.precision.device
    kind, there = (
        ("CUDA devices", torch.cuda.device_count()) if device.type == "cuda" else ("processors", os.cpu_count())
    )
    if devices > (there or 1):
        raise UnsupportedError(f"devices is {devices}; allowed: up to {there}, the {kind} of this machine")
    threads = torch.get_num_threads()
    store = _meeting_point()
    first = Rank(0, devices, store.port, max(1, threads // devices) if device.type == "cpu" else threads)
    others: list[subprocess.Popen[bytes]] = []
    try:
        torch.set_num_threads(first.threads)
        others.extend(_start(replace(first, number=number)) for number in range(1, devices))
        _send(run.for_others(), others)
        while store.add(_READY, 0) < len(others) and all(other.poll() is None for other in others):
            time.sleep(_POLL_S)
        if store.add(_READY, 0) < len(others):  # torch would wait for it as long as it waits for validations
            raise RuntimeError("a process ended before it could join")
        run.share = Share(run, first, store)
        yield
        run.share.tell(goes_on=False)
        with suppress(subprocess.TimeoutExpired):
            for other in others:
                other.wait(EXIT_S)
    except (RuntimeError, OSError) as error:  # of a connection, if another process ended
        if ended := _ended(others, error):
            raise RuntimeError(f"{ended}; what it printed is in the log of the cell") from error
        raise
    finally:
        run.share = None
        for other in others:
            other.kill()
            other.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def _meeting_point(port: int = 0) -> Any:
    """The store in which processes find each other: the first makes it at a free port, the others join it."""
    return dist.TCPStore(HOST, port, is_master=not port, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]


def _start(rank: Rank) -> subprocess.Popen[bytes]:
    """Starts one of the other processes; a cell's own process may have no children of multiprocessing."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(rank.threads)}
    numbers = [str(number) for number in vars(rank).values()]
    return subprocess.Popen([sys.executable, "-c", _FOLLOW, *numbers], env=environment, stdin=subprocess.PIPE)


def _send(run: SharedRun, others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        with cast("IO[bytes]", other.stdin) as stream:
            write_copy(run, stream)


def write_copy(run: object, stream: IO[bytes]) -> None:
    """Writes a run, or its model alone, so that another process can go on with it.

    Raises:
        UnsupportedError: It holds what cannot be copied.
        OSError: The process that reads it has ended.
    """
    try:
        torch.save(run, stream, pickle_module=_PICKLING)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UnsupportedError(f"the model cannot be copied to other devices, so devices must be 1: {error}") from error


def read_copy(content: bytes, rank: int) -> Any:
    """What `write_copy` wrote; what was on the first GPU is on that of `rank`."""
    return torch.load(io.BytesIO(content), map_location={"cuda:0": f"cuda:{rank}"}, weights_only=False)


@dataclass(frozen=True)
class _NotCopied:
    """Stands in a copy for a function within another that uses its variables, unless training calls it."""

    name: str

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise UnsupportedError(f"training calls {self.name}, which other processes cannot import: devices must be 1")


def _function(module: str, code: bytes, defaults: tuple[Any, ...] | None) -> FunctionType:
    return FunctionType(marshal.loads(code), vars(importlib.import_module(module)), argdefs=defaults)


class _Pickler(pickle.Pickler):
    """Pickles a run with functions that no name leads to: hooks of models, and parts of mechanisms' declarations."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, FunctionType) or "<" not in obj.__qualname__:
            return NotImplemented
        is_alone = obj.__closure__ is None and obj.__kwdefaults__ is None
        if is_alone and obj.__globals__ is vars(sys.modules[obj.__module__]):
            return _function, (obj.__module__, marshal.dumps(obj.__code__), obj.__defaults__)
        return _NotCopied, (f"{obj.__module__}.{obj.__qualname__}",)


_PICKLING = SimpleNamespace(__name__=__name__, Pickler=_Pickler)
"""As much of a module for pickling as `torch.save` uses."""


def _ended(others: list[subprocess.Popen[bytes]], error: Exception) -> str:
    """Which of the other processes has failed, in words; empty if none has."""
    until = time.monotonic() + (0.0 if isinstance(error, torch.OutOfMemoryError) else EXIT_S)
    while True:
        for rank, other in enumerate(others, 1):
            if other.poll():
                return f"process {rank} of the {len(others) + 1} that share the training ended with code {other.poll()}"
        if time.monotonic() > until:
            return ""
        time.sleep(_POLL_S)


def follow() -> None:
    """The other processes: reads a run from standard input and takes its steps with the first process."""
    rank = Rank(*map(int, sys.argv[1:]))
    try:
        _take_steps(rank)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: the first process notices when the connection ends


def _take_steps(rank: Rank) -> None:
    torch.set_num_threads(rank.threads)
    run = read_copy(sys.stdin.buffer.read(), rank.number)
    if run.precision.device.type == "cuda":
        torch.cuda.set_device(rank.number)
        run.precision = replace(run.precision, device=torch.device("cuda", rank.number))
    store = _meeting_point(rank.port)
    store.add(_READY, 1)
    run.share = share = Share(run, rank, store)
    run.model.train()
    while share.goes_on():
        torch.manual_seed(int(np.random.SeedSequence([run.seed, rank.number, run.step]).generate_state(1)[0]))
        run.advance()
    dist.destroy_process_group()
