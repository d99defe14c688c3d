"""Verdicts: one situation each, and how often they are right over many simulated runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.compare.verdicts import Comparison, Finding, compare
from hedgebench.results.names import UnknownNameError
from hedgebench.results.record import DataIdentity, Failure, Metric

from ..simulated import MODELS, World, make_record

RUNS = 150
PERPLEXITY = Metric("perplexity", 20.0, "1", False, None, 100)


def snapshot(*metrics: Metric, **changes: object) -> Snapshot:
    return Snapshot("a run", (make_record("elu", "wikitext2", 0, metrics or (PERPLEXITY,), **changes),))


def only(comparison: Comparison) -> Finding:
    assert len(comparison.findings) == 1
    return comparison.findings[0]


def test_a_run_held_against_itself_is_unchanged() -> None:
    run = World().run(1)
    comparison = compare(run, run)
    assert {finding.verdict for finding in comparison.findings} == {"unchanged"}
    assert comparison.exit_code == 0
    assert all(f.change is not None and f.change.worse == 0 for f in comparison.findings)
    assert compare(snapshot(), snapshot()).exit_code == 0


@pytest.mark.parametrize(
    ("after", "verdict", "code"), [(20.05, "unchanged", 0), (20.2, "regressed", 1), (19.7, "improved", 0)]
)
def test_without_samples_or_seeds_the_tolerance_judges(after: float, verdict: str, code: int) -> None:
    comparison = compare(snapshot(), snapshot(replace(PERPLEXITY, value=after)))
    found = only(comparison)
    assert (found.verdict, comparison.exit_code) == (verdict, code)
    assert found.change is not None
    assert found.change.method == "tolerance"


def test_a_tolerance_of_ones_own_takes_the_usual_ones_place() -> None:
    worse = snapshot(replace(PERPLEXITY, value=20.2))
    assert only(compare(snapshot(), worse, {"perplexity": 2})).verdict == "unchanged"
    assert (
        only(compare(snapshot(), snapshot(replace(PERPLEXITY, value=20.02)), {"perplexity": 0})).verdict == "regressed"
    )


def test_a_tolerance_for_a_metric_that_nobody_measured_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'perplexty'; did you mean perplexity"):
        compare(snapshot(), snapshot(), {"perplexty": 1})


def test_a_metric_that_some_seeds_of_the_baseline_lack_did_not_run_out_of_memory() -> None:
    other = replace(PERPLEXITY, name="bits_per_byte", value=1.0)

    def run(*metrics: tuple[Metric, ...]) -> Snapshot:
        return Snapshot("run", tuple(make_record("elu", "wikitext2", i, own) for i, own in enumerate(metrics)))

    both, one = (PERPLEXITY, other), (PERPLEXITY,)
    findings = {found.metric: found for found in compare(run(both, one), run(both, both)).findings}
    assert findings["perplexity"].verdict == "unchanged"
    found = findings["bits_per_byte"]
    assert (found.verdict, found.reason) == ("incomparable", "the baseline did not measure it with every seed")


def test_seeds_are_tested_where_there_are_no_samples() -> None:
    def run(*values: float) -> Snapshot:
        cells = [make_record("elu", "wikitext2", i, (replace(PERPLEXITY, value=v),)) for i, v in enumerate(values)]
        return Snapshot("run", tuple(cells))

    same = only(compare(run(20.0, 25.0, 15.0), run(20.0, 25.0, 15.0)))
    assert (same.verdict, same.change and same.change.method) == ("unchanged", "the same values")
    found = only(compare(run(20.0, 20.01, 19.99, 20.0), run(21.0, 21.01, 20.99, 21.0)))
    assert found.change is not None
    assert (found.verdict, found.change.method, found.seeds) == ("regressed", "Welch", (0, 1, 2, 3))
    assert only(compare(run(20.0, 25.0, 15.0), run(21.0, 26.0, 16.0))).verdict == "undecided"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": DataIdentity("wikitext2", "1", "beef", "embedded")}, "different data: was wikitext2 f00d"),
        ({"settings": {"train.lr": 0.02}}, "settings differ: train.lr was 0.01, is 0.02"),
        ({"environment": {"device": "cpu", "dtype": "bfloat16"}}, "another dtype: was float32, is bfloat16"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(changes: dict[str, object], reason: str) -> None:
    comparison = compare(snapshot(), snapshot(**changes))
    assert only(comparison).verdict == "incomparable"
    assert reason in only(comparison).reason
    assert comparison.exit_code == 4


def test_how_data_was_read_does_not_make_it_other_data() -> None:
    details = {"tokenizer_source": "hub", "label_mapping": "by place", "paired_by": "none", "paired_digest": "none"}
    data = DataIdentity("wikitext2", "1", "f00d", "embedded", details=details)
    other = replace(data, details={**dict.fromkeys(details, "other"), "prefix_token": "<s>"})
    assert only(compare(snapshot(data=data), snapshot(data=other))).verdict == "unchanged"
    prefixed = replace(data, details={**details, "prefix_token": "</s>"})
    assert "prefix_token changed" in only(compare(snapshot(data=prefixed), snapshot(data=other))).reason


def test_time_and_memory_are_not_compared_between_devices_and_quality_is() -> None:
    metrics = (
        PERPLEXITY,
        Metric("prefill_ms", 3.0, "ms", False, None, 9),
        Metric("peak", 9.0, "bytes", False, None, 1),
    )
    other = {"device": "cuda", "gpu": "H200", "dtype": "float32", "cpu": "a", "threads": 1}
    found = compare(snapshot(*metrics), snapshot(*metrics, environment=other)).findings
    verdicts = {finding.metric: finding.verdict for finding in found}
    assert verdicts == {"perplexity": "unchanged", "prefill_ms": "incomparable", "peak": "incomparable"}
    assert "another device: was cpu, is cuda" in found[0].reason


def test_one_measurement_under_two_names_is_judged_once() -> None:
    ms = (1.0, 2.0, 4.0)
    metrics = (
        Metric("longest_tokens_per_s", 0.5, "tokens/s", True, None, 3, samples=tuple(1 / x for x in ms)),
        Metric("prefill_ms", 2.0, "ms", False, None, 3, {"seq_len": 8}, samples=ms),
        Metric(
            "prefill_tokens_per_s", 4.0, "tokens/s", True, None, 3, {"seq_len": 8}, samples=tuple(8 / x for x in ms)
        ),
        Metric("decode_ms", 2.0, "ms", False, None, 3, {"seq_len": 8}, samples=(1.0, 2.0, 3.0)),
    )
    found = compare(snapshot(*metrics), snapshot(*metrics)).findings
    assert sorted(finding.metric for finding in found) == ["decode_ms", "prefill_ms"]


def test_cells_and_metrics_that_are_gone_are_missing_and_new_ones_are_no_verdict() -> None:
    more = Snapshot("more", (*snapshot().records, make_record("relu", "wikitext2", 0, (PERPLEXITY,))))
    gone = compare(more, snapshot())
    assert [f.verdict for f in gone.findings] == ["missing", "unchanged"]
    assert gone.exit_code == 4
    assert compare(snapshot(), more).exit_code == 0
    assert compare(snapshot(), Snapshot("empty", ())).exit_code == 4
    assert compare(Snapshot("empty", ()), Snapshot("empty", ())).exit_code == 4
    without = compare(snapshot(PERPLEXITY, replace(PERPLEXITY, name="other")), snapshot())
    assert (without.findings[0].metric, without.findings[0].verdict) == ("other", "missing")
    other_seed = Snapshot("other seed", (make_record("elu", "wikitext2", 7, (PERPLEXITY,)),))
    assert "no seed in common: the baseline has 0, the candidate 7" in only(compare(snapshot(), other_seed)).reason


def test_what_is_not_compared_without_a_verdict_is_noted() -> None:
    def run(name: str, *cells: tuple[int, float]) -> Snapshot:
        made = (make_record("elu", "wikitext2", seed, (PERPLEXITY,), settings={"lr": lr}) for seed, lr in cells)
        return Snapshot(name, tuple(made))

    cell = "elu / gpt / wikitext2"
    fewer = compare(run("a", (0, 0.1), (1, 0.1), (2, 0.1)), run("b", (1, 0.1), (7, 0.1)))
    assert fewer.notes == (
        f"{cell}: seeds 0, 2 are in a alone and not compared",
        f"{cell}: seed 7 is in b alone and not compared",
    )
    assert compare(run("a", (0, 0.1)), run("b", (0, 0.1))).notes == ()
    (note,) = compare(run("a", (0, 0.1)), run("b", (0, 0.1), (0, 0.2))).notes
    assert note == f"{cell}, seed 0: b has it 2 times, with other settings; the last one is compared"


def test_a_cell_that_fails_where_the_baseline_had_a_result_is_a_regression() -> None:
    failed = snapshot(status="error", error=Failure("ValueError", "it broke"))
    assert compare(snapshot(), failed).exit_code == 1
    assert "it broke" in only(compare(snapshot(), failed)).reason
    assert only(compare(failed, snapshot())).verdict == "improved"
    assert only(compare(failed, failed)).verdict == "unchanged"
    assert only(compare(failed, snapshot(status="timeout"))).verdict == "incomparable"


def test_a_point_that_runs_out_of_memory_is_a_regression_and_the_reverse_an_improvement() -> None:
    fits = Metric("prefill_ms", 3.0, "ms", False, None, 9, {"seq_len": 8})
    oom = replace(fits, value=None, status="oom")
    assert only(compare(snapshot(fits), snapshot(oom))).verdict == "regressed"
    assert only(compare(snapshot(oom), snapshot(fits))).verdict == "improved"
    assert only(compare(snapshot(oom), snapshot(oom))).verdict == "unchanged"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_ceases_to_be_one_is_a_regression(value: float) -> None:
    assert only(compare(snapshot(), snapshot(replace(PERPLEXITY, value=value)))).verdict == "regressed"
    assert only(compare(snapshot(replace(PERPLEXITY, value=value)), snapshot())).verdict == "incomparable"


def verdicts(comparison: Comparison, metric: str, model: str | None = None) -> set[str]:
    return {f.verdict for f in comparison.findings if f.metric == metric and model in (None, f.cell.model)}


def test_fewer_than_one_in_twenty_comparisons_without_a_change_raises_an_alarm() -> None:
    world = World()
    runs = [compare(world.run(2 * i), world.run(2 * i + 1)) for i in range(RUNS)]
    assert sum(run.exit_code == 1 for run in runs) / RUNS < 0.05


def test_a_loss_of_one_percent_of_perplexity_is_found() -> None:
    world = World()
    runs = [compare(world.run(2 * i), world.run(2 * i + 1, worse_nats=0.01)) for i in range(40)]
    assert all(run.exit_code == 1 for run in runs)
    found = sum("regressed" in verdicts(run, "perplexity", model) for run in runs for model in MODELS)
    assert found / (40 * len(MODELS)) > 0.9


def test_a_loss_of_ten_percent_of_speed_is_found() -> None:
    world = World()
    runs = [compare(world.run(2 * i), world.run(2 * i + 1, slower=0.1)) for i in range(40)]
    assert sum(run.exit_code == 1 for run in runs) / 40 > 0.9


def timed(ms: float, pace: float) -> Snapshot:
    """Five processes on a machine of this pace."""
    cells = []
    for seed in range(5):
        wobble = 1 + 0.002 * seed
        latency = Metric("prefill_ms", ms, "ms", False, None, 9, samples=(ms * wobble,) * 9)
        own = Metric("pace_ms", pace, "ms", None, None, 9, {"work": "memory"}, samples=(pace * wobble,) * 9)
        cells.append(make_record("elu", "throughput", seed, (latency, own)))
    return Snapshot("run", tuple(cells))


def test_a_slower_machine_is_not_taken_for_a_slower_model() -> None:
    assert only(compare(timed(10, 1), timed(13, 1))).verdict == "regressed"
    slower = only(compare(timed(10, 1), timed(13, 1.3)))
    assert slower.verdict == "undecided"
    assert "the machine itself was +30% slower at memory" in slower.reason
    assert only(compare(timed(10, 1), timed(13, 1.03))).verdict == "regressed"


def test_a_faster_machine_does_not_hide_a_slower_model() -> None:
    assert only(compare(timed(10, 1), timed(10, 0.7))).verdict == "undecided"
    assert only(compare(timed(10, 1), timed(10, 1))).verdict == "unchanged"
