"""Memory: peak bytes of prefill and of a training step, and bytes of the decode state, against sequence length.

What counts as a byte differs between the CPU and CUDA; see `allocation.py`. `longest_prefill_peak_bytes` ranks models,
taken at the longest length asked for and at no other (as in `throughput.py`, and for the same reason).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..adapters.base import Adapter, Capability, ModelShape, Settings
from ..results.record import DataIdentity, Metric
from .allocation import peak_memory
from .base import Row, Sources, TaskData, TaskInfo, TaskScale
from .settings import as_settings, parse_settings
from .sweep import VOCAB_SIZE, check_sweep, climb, identity, random_tokens, release_memory


@dataclass(frozen=True)
class MemorySettings:
    """What is measured.

    Attributes:
        seq_lens: Sequence lengths in tokens.
        batch_size: Rows per call.
        modes: Any of `prefill`, `train` and `state`, joined by `+`.

    Raises:
        ValueError: An unknown mode or no length.
    """

    seq_lens: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch_size: int = 1
    modes: str = "prefill+train+state"

    def __post_init__(self) -> None:
        check_sweep(self.seq_lens, self.modes, tuple(_MEASURE))


@dataclass(frozen=True)
class Memory:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Random tokens."""
        parse_settings(MemorySettings, settings)
        return identity("memory")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The shape that every length fits in; `test` holds the lengths, the first `limit` of them."""
        seq_lens = sorted(parse_settings(MemorySettings, settings).seq_lens)
        return TaskData(ModelShape(context_length=seq_lens[-1], vocab_size=VOCAB_SIZE), test=tuple(seq_lens[:limit]))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Bytes; one row for each mode and length that was reached."""
        chosen = parse_settings(MemorySettings, settings)

        def measured(mode: str) -> Iterator[Row]:
            return climb(
                mode,
                data.test,
                chosen.batch_size,
                lambda seq_len: _MEASURE[mode](adapter, seq_len, chosen.batch_size),
            )

        return [row for mode in chosen.modes.split("+") for row in measured(mode)]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """The headline, then the metrics of each row. Counts are exact, so there is no standard error."""
        return [*_headline(rows), *(metric for row in rows for metric in _point_metrics(row))]


def _measure_prefill(adapter: Adapter, seq_len: int, batch_size: int) -> Row:
    tokens = random_tokens(adapter, batch_size, seq_len)
    return _measure_peak(adapter, lambda: adapter.prefill(tokens))


def _measure_training(adapter: Adapter, seq_len: int, batch_size: int) -> Row:
    tokens = random_tokens(adapter, batch_size, seq_len)
    targets = tokens.roll(-1, dims=1)
    return _measure_peak(adapter, lambda: adapter.training_step(tokens, targets))


def _measure_state(adapter: Adapter, seq_len: int, batch_size: int) -> Row:
    return {"state_bytes": adapter.state_bytes(batch_size, seq_len)}


def _measure_peak(adapter: Adapter, call: Callable[[], object]) -> Row:
    call()
    release_memory()
    peak = peak_memory(call, adapter.device)
    reserved = {} if peak.reserved_bytes is None else {"peak_reserved_bytes": peak.reserved_bytes}
    return {"peak_allocated_bytes": peak.allocated_bytes, **reserved}


_MEASURE: Mapping[str, Callable[[Adapter, int, int], Row]] = {
    "prefill": _measure_prefill,
    "train": _measure_training,
    "state": _measure_state,
}


def _point_metrics(row: Row) -> list[Metric]:
    """The bytes of one row; without a value where it failed. The state's coordinates name no mode."""
    is_state = row["mode"] == "state"
    at = {"seq_len": row["seq_len"], "batch_size": row["batch_size"], **({} if is_state else {"mode": row["mode"]})}
    if row["status"] != "ok":
        name = "state_bytes" if is_state else "peak_allocated_bytes"
        return [Metric(name, None, "bytes", False, None, 0, at, row["status"])]
    names = [name for name in ("peak_allocated_bytes", "peak_reserved_bytes", "state_bytes") if name in row]
    return [Metric(name, float(row[name]), "bytes", False, None, 1, at) for name in names]


def _headline(rows: Sequence[Row]) -> list[Metric]:
    """Peak of prefill where the climb ended: at the longest length, or without a value where it failed."""
    climbed = [row for row in rows if row["mode"] == "prefill"]
    return [replace(_point_metrics(row)[0], name="longest_prefill_peak_bytes", at={}) for row in climbed[-1:]]


MEMORY = Memory(
    info=TaskInfo(
        name="memory",
        version=1,
        summary="Peak memory of prefill and training step, and size of the decode state, against sequence length",
        main_metric="longest_prefill_peak_bytes",
        data=("generated",),
        licence="Apache-2.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, figure 6 (axes only: no values known)",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("zero-shot",),
        own_device=True,
        scales={
            "smoke": TaskScale(settings=as_settings(MemorySettings(seq_lens=(256, 1024, 4096)))),
            "small": TaskScale(settings=as_settings(MemorySettings())),
            "paper": TaskScale(
                settings=as_settings(MemorySettings(seq_lens=tuple(2**power for power in range(9, 18))))
            ),
        },
    )
)
