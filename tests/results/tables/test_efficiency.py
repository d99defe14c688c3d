"""Tests of results/efficiency.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from hedgebench.results.record import Metric, Record, Scalar
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.efficiency import Crossover, crossovers, is_detail, summaries
from hedgebench.results.tables.ranks import rankings
from hedgebench.results.tables.row import Row
from hedgebench.results.tables.tables import sections

MakeRecord = Callable[..., Record]
LENGTHS = (256, 512, 1024, 2048)
PACE = Metric("pace_ms", 1.0, "ms", None, 0.01, 4, {"work": "compute"}, samples=(0.99, 1.0, 1.0, 1.01))


def times(ms_at: Callable[[int], float | None], lengths: tuple[int, ...] = LENGTHS) -> tuple[Metric, ...]:
    found = []
    for n in lengths:
        at: Mapping[str, Scalar] = {"seq_len": n, "batch_size": 1}
        ms = ms_at(n)
        found.append(Metric("prefill_ms", ms, "ms", False, 0.0, 3, at, "ok" if ms is not None else "oom"))
    return tuple(found)


@pytest.fixture
def rows_of(make_record: MakeRecord) -> Callable[..., list[Row]]:
    def make(**models: tuple[Metric, ...]) -> list[Row]:
        made = [make_record(name, "throughput", metrics=(*found, PACE)) for name, found in models.items()]
        return leaderboard_rows(made)

    return make


def only(rows: list[Row]) -> Crossover:
    ((found,),) = crossovers(rows).values()
    return found


def test_power_laws_cross_where_their_formulas_do(rows_of: Callable[..., list[Row]]) -> None:
    found = only(rows_of(softmax=times(lambda n: n**2 / 1000), elu=times(lambda n: 0.7 * n)))
    assert (found.kind, found.model) == ("at", ("elu", 0))
    assert found.length == pytest.approx(700)
    assert found.value == pytest.approx(490)
    assert found.text == "700 ± 0"


@pytest.mark.parametrize(
    ("scale", "kind", "text"), [(0.01, "always", "at every length from 256"), (90.0, "never", "not up to 2048")]
)
def test_nothing_is_said_beyond_the_measured_lengths(
    scale: float, kind: str, text: str, rows_of: Callable[..., list[Row]]
) -> None:
    found = only(rows_of(softmax=times(lambda n: n**2 / 1000), elu=times(lambda n: scale * n)))
    assert (found.kind, found.length, found.text) == (kind, None, text)


def test_a_model_that_becomes_dearer_again_has_not_crossed_for_good(rows_of: Callable[..., list[Row]]) -> None:
    wavy: dict[int, float] = dict(zip(LENGTHS, (2.0, 0.5, 2.0, 0.5), strict=True))
    found = only(rows_of(softmax=times(lambda _: 1.0), elu=times(wavy.get)))
    assert found.length == pytest.approx(1024 * 2**0.5)
    found = only(rows_of(softmax=times(lambda _: 1.0), elu=times(lambda n: 1 / wavy[n])))
    assert found.kind == "never"


def test_lengths_that_one_of_the_two_did_not_reach_do_not_count(rows_of: Callable[..., list[Row]]) -> None:
    softmax = times(lambda n: n**2 / 1000 if n < 1024 else None)
    assert only(rows_of(softmax=softmax, elu=times(lambda n: 0.7 * n))).text == "not up to 512"
    assert crossovers(rows_of(softmax=softmax, elu=times(lambda n: 1.0 if n > 512 else None))) == {}


def test_kernels_cross_the_cheapest_of_softmaxs_kernels(make_record: MakeRecord) -> None:
    costs: dict[str, Callable[[int], float]] = {
        "hedgehog": lambda n: 0.7 * n,
        "softmax-flash": lambda n: n**2 / 1000,
        "softmax-naive": lambda n: n**2 / 250 if n > 300 else n**2 / 2000,
        "fla": lambda n: 2.0 * n,
    }
    metrics = [
        Metric("forward_ms", cost(n), "ms", False, 0.0, 3, {"contender": name, "seq_len": n, "batch_size": 1})
        for name, cost in costs.items()
        for n in LENGTHS
    ]
    (found,) = crossovers(leaderboard_rows([make_record("hedgehog", "kernels/forward", metrics=metrics)])).values()
    by_model = {each.model[0]: each for each in found}
    assert by_model.keys() == {"hedgehog", "fla"}
    assert by_model["hedgehog"].length == pytest.approx(700)
    assert by_model["fla"].length == pytest.approx(2000)


def test_only_costs_cross(make_record: MakeRecord) -> None:
    at = [{"seq_len": n} for n in LENGTHS]
    for name in (
        "accuracy",
        "prefill_ms_p20",
        "prefill_tokens_per_s_p20",
        "layer_prefill_flops",
        "peak_resident_bytes",
    ):
        made = [
            make_record(
                model, "throughput", metrics=tuple(Metric(name, 1.0, "1", None, None, 1, where) for where in at)
            )
            for model in ("softmax", "elu")
        ]
        assert crossovers(leaderboard_rows(made)) == {}


def test_rates_cross_where_the_times_do_that_they_are_of(rows_of: Callable[..., list[Row]]) -> None:
    def rates(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        return tuple(
            replace(m, name="prefill_tokens_per_s", value=1e3 * float(m.at["seq_len"] or 0) / (m.value or 0.0))
            for m in metrics
        )

    softmax, elu = times(lambda n: n**2 / 1000), times(lambda n: 0.7 * n)
    found = only(rows_of(softmax=rates(softmax), elu=rates(elu)))
    assert (found.kind, found.model) == ("at", ("elu", 0))
    assert found.length == pytest.approx(700)
    assert found.value == pytest.approx(1e3 / 0.7)
    slower = rates(times(lambda n: 90.0 * n))
    assert only(rows_of(softmax=rates(softmax), elu=slower)).kind == "never"


def test_the_error_of_a_crossing_is_what_simulated_measurements_scatter_by(rows_of: Callable[..., list[Row]]) -> None:
    random = np.random.default_rng(0)

    def noisy(ms_at: Callable[[int], float], error: float, shift: Callable[[], float]) -> tuple[Metric, ...]:
        return tuple(
            replace(m, value=(m.value or 0.0) * (1 + error * shift()), stderr=error * (m.value or 0.0))
            for m in times(ms_at)
        )

    def crossing(shift: Callable[[], float]) -> Crossover:
        softmax = noisy(lambda n: n**2 / 1000, 0.02, shift)
        return only(rows_of(softmax=softmax, elu=noisy(lambda n: 0.7 * n, 0.01, shift)))

    lengths = [crossing(random.standard_normal).length or 0.0 for _ in range(400)]
    found = crossing(lambda: 0.0)
    assert found.stderr == pytest.approx(float(np.std(lengths)), rel=0.15)
    assert found.text == f"700 ± {found.stderr:.0f}"


def exponent(value: float, half: float) -> tuple[Metric, ...]:
    at: Mapping[str, Scalar] = {"of": "layer_prefill", "over": "256..2048", "batch_size": 1}
    ends = {"": value, "_low": value - half, "_high": value + half}
    return tuple(Metric(f"time_exponent{end}", number, "1", None, None, 4, at) for end, number in ends.items())


def test_exponents_stand_in_a_table_with_their_intervals_and_nowhere_else(make_record: MakeRecord) -> None:
    made = [
        make_record("softmax", "throughput", metrics=(*times(lambda n: n**2 / 1000), *exponent(1.97, 0.05), PACE)),
        make_record("elu", "throughput", metrics=(*times(lambda n: 0.7 * n), PACE)),
    ]
    rows = leaderboard_rows(made)
    fitted, crossed = summaries(rows)
    assert fitted.columns == (("layer_prefill", "over 256..2048, batch_size=1"),)
    assert fitted.texts == {("softmax", 0): ("1.97 [1.92, 2.02]",)}
    assert crossed.columns == (("prefill_ms", "batch_size=1"),)
    assert crossed.texts == {("elu", 0): ("700 ± 0",)}
    titles = [table.title.split(":")[0] for section in sections(rows) for table in section.tables]
    assert titles == ["throughput", "throughput", "Time exponent",
                      "Cheaper than softmax from seq_len (between measured lengths, on "
                      "logarithmic axes)"]  # fmt: skip


def slowed(metric: Metric, factor: float) -> Metric:
    assert metric.value is not None
    return replace(metric, value=factor * metric.value, samples=tuple(factor * ms for ms in metric.samples))


@pytest.mark.parametrize(
    ("pace", "text"),
    [
        ((PACE,), "700 ± 0"),
        ((slowed(PACE, 1.15),), "700 ± 0"),
        ((slowed(PACE, 20.0),), "undecided: machine was not quiet"),
        ((), "undecided: pace not measured"),
    ],
)
def test_crossovers_and_exponents_need_equal_pace(pace: tuple[Metric, ...], text: str, make_record: MakeRecord) -> None:
    softmax = (*times(lambda n: n**2 / 1000), *exponent(1.97, 0.05), PACE)
    elu = (*times(lambda n: 0.7 * n), *exponent(1.03, 0.05), *pace)
    elu = tuple(replace(m, at={**m.at, "of": "prefill"}) if "of" in m.at else m for m in elu)
    rows = leaderboard_rows(
        [make_record("softmax", "throughput", metrics=softmax), make_record("elu", "throughput", metrics=elu)]
    )
    fitted, crossed = summaries(rows)
    assert crossed.texts == {("elu", 0): (text,)}
    assert fitted.texts["elu", 0][1] == ("1.03 [0.98, 1.08]" if text == "700 ± 0" else text)


def test_exponents_and_crossovers_whose_intervals_say_nothing_are_no_results(make_record: MakeRecord) -> None:
    vague = [replace(m, stderr=2.0 * (m.value or 0.0)) for m in times(lambda n: 0.7 * n)]
    made = [
        make_record("softmax", "throughput", metrics=(*times(lambda n: n**2 / 1000), *exponent(0.13, 13.5), PACE)),
        make_record("elu", "throughput", metrics=(*vague, PACE)),
    ]
    fitted, crossed = summaries(leaderboard_rows(made))
    assert fitted.texts == {("softmax", 0): ("undecided: [-13.37, 13.63]",)}
    few = make_record("softmax", "throughput", metrics=(*times(lambda n: n**2 / 1000), *exponent(1.9, math.nan), PACE))
    assert summaries(leaderboard_rows([few]))[0].texts == {
        ("softmax", 0): ("undecided: too few lengths for an interval",)
    }
    assert crossed.texts == {("elu", 0): ("undecided: no significant difference at 256, 512, 1024, 2048",)}


def test_a_crossing_at_a_measured_length_is_decided_by_those_around_it(rows_of: Callable[..., list[Row]]) -> None:
    def with_errors(found: tuple[Metric, ...]) -> tuple[Metric, ...]:
        return tuple(replace(m, stderr=0.02 * (m.value or 0.0)) for m in found)

    softmax, elu = with_errors(times(lambda n: n**2 / 1000)), with_errors(times(lambda n: 1.025 * n))
    found = only(rows_of(softmax=softmax, elu=elu))
    # At 1024 they differ by 0.1 %; the error of the crossing is about sqrt(2) * 2 % of its length.
    assert found.kind == "at"
    assert found.length == pytest.approx(1025, rel=1e-3)
    assert found.stderr == pytest.approx(0.0283 * 1025, rel=0.05)
    alike = only(rows_of(softmax=softmax, elu=with_errors(times(lambda n: n**2 / 1010))))
    assert alike.text == "undecided: no significant difference at 256, 512, 1024, 2048"


def timed(model: str, ms: Callable[[int], float], pace: Metric, make_record: MakeRecord) -> Record:
    """A record of one process whose calls spread by 1 % around their own time at each length."""
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=(len(LENGTHS), 10)))
    metrics = []
    for n, spread in zip(LENGTHS, noise, strict=True):
        samples = tuple(ms(n) * spread)
        at: Mapping[str, Scalar] = {"seq_len": n, "batch_size": 1}
        metrics.append(
            Metric("prefill_ms", float(np.median(samples)), "ms", False, ms(n) * 0.004, 10, at, samples=samples)
        )
    return make_record(model, "throughput", metrics=(*metrics, pace))


def test_what_processes_or_the_pace_explain_of_a_sweep_is_no_crossover(make_record: MakeRecord) -> None:
    def text(ms: Callable[[int], float], pace: Metric) -> str:
        made = [timed("softmax", lambda n: n / 100, PACE, make_record), timed("elu", ms, pace, make_record)]
        return only(leaderboard_rows(made)).text

    unsure = "undecided: no significant difference at 256, 512, 1024, 2048"
    assert text(lambda n: 0.97 * n / 100, PACE) == unsure  # 3 % is the spread between processes
    assert text(lambda n: 1.03 * n / 100, PACE) == unsure
    assert text(lambda n: 1.1 * n / 100, slowed(PACE, 1.1)) == unsure  # as is the machine
    assert text(lambda n: 0.8 * n / 100, PACE) == "at every length from 256"
    assert text(lambda n: 1.25 * n / 100, slowed(PACE, 1.1)) == "not up to 2048"


def test_times_of_single_calls_are_not_told_apart_and_counts_of_bytes_are(make_record: MakeRecord) -> None:
    def rows(unit: str, power: float) -> list[Row]:
        name = "prefill_ms" if unit == "ms" else "state_bytes"
        costs: Mapping[str, Callable[[int], float]] = {"softmax": lambda n: n**power / 1000, "elu": lambda n: 0.7 * n}
        return leaderboard_rows(
            make_record(
                model,
                "throughput",
                metrics=(
                    *(Metric(name, cost(n), unit, False, None, 1, {"seq_len": n}, samples=(cost(n),)) for n in LENGTHS),
                    PACE,
                ),
            )
            for model, cost in costs.items()
        )

    unsure = "undecided: no significant difference at 256, 512, 1024, 2048"
    assert [only(rows("ms", power)).text for power in (1.0, 2.0, 4.0)] == [unsure] * 3
    found = [only(rows("bytes", power)).text for power in (1.0, 2.0, 4.0)]
    assert found == ["not up to 2048", "700", "at every length from 256"]
    for unit, standings in (("ms", {"", "same"}), ("bytes", {"", "better"})):
        compared = rows(unit, 4.0)
        assert {place.standing for place in rankings(compared)} == standings


def test_a_time_of_a_machine_that_was_not_quiet_stands_alone(make_record: MakeRecord) -> None:
    """The training steps of the README's first command, measured while other work shared the machine."""

    def record(model: str, pace: Metric, *samples: float) -> Record:
        value = float(np.median(samples))
        at: Mapping[str, Scalar] = {"seq_len": 4096, "batch_size": 1}
        return make_record(
            model, "throughput", metrics=(Metric("train_ms", value, "ms", False, 2.0, 5, at, samples=samples), pace)
        )

    busy = record("softmax", slowed(PACE, 20.0), 410.0, 480.0, 599.0, 790.0, 801.0)
    quick = record("hedgehog", PACE, 66.0, 67.0, 68.0, 69.0, 70.0)
    (section,) = sections(leaderboard_rows([busy, quick]))
    cells = {model: cell for model, (cell,) in section.tables[0].rows}
    assert (cells["softmax"].text, cells["softmax"].note) == ("599.0", "machine was not quiet")
    assert cells["softmax"].pale
    assert (cells["hedgehog"].text, cells["hedgehog"].percent) == ("68.0", "")
    assert {cell.ranking.rank + cell.ranking.standing for cell in cells.values()} == {""}
    quiet = record("softmax", PACE, 597.0, 598.0, 599.0, 600.0, 601.0)
    (section,) = sections(leaderboard_rows([quiet, quick]))
    ranking = section.tables[0].rows[1][1][0].ranking
    assert (ranking.rank, ranking.is_best, ranking.standing) == ("1", True, "better")


def test_spreads_counts_and_fits_are_details(make_metric: Callable[..., Metric], make_record: MakeRecord) -> None:
    names = ("prefill_ms", "prefill_ms_p20", "prefill_ms_p80", "layer_prefill_flops", "layer_prefill_traffic_bytes",
             "time_exponent_low", "prefill_sm_clock_mhz")  # fmt: skip
    made = make_record(metrics=tuple(make_metric(name, at={"seq_len": 1}) for name in names))
    assert [row.metric for row in leaderboard_rows([made]) if not is_detail(row)] == ["prefill_ms"]
