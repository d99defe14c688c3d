from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from hedgebench.results.record import WITHOUT_BRANCH, Metric, Record
from hedgebench.results.report.write import render
from hedgebench.results.stats.evidence import Scores, kept_scores, no_scores
from hedgebench.results.stats.scores import SampleScores
from hedgebench.results.tables.aggregate import group_seeds, leaderboard_rows, main_rows
from hedgebench.results.tables.conversion import BranchEffect, audit_notes, branch_effect, branch_notes
from hedgebench.results.tables.groups import group_scores
from hedgebench.results.tables.leaderboard import leaderboard_markdown
from hedgebench.results.tables.tables import sections

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]

HYBRID = "hedgehog:window=64"
CONTROL = "perplexity_without_linear_branch"


@pytest.fixture
def hybrid(make_record: MakeRecord, make_metric: MakeMetric) -> Callable[..., Record]:
    def made(
        together: float, alone: float, stderr: float | None = 0.5, alone_stderr: float | None = 0.5, seed: int = 0
    ) -> Record:
        metrics = (
            make_metric("attention_kl_swapped", 2.0, "nats", stderr=0.1),
            make_metric("attention_kl_distilled", 0.5, "nats", stderr=0.1),
            make_metric(value=together, stderr=stderr),
            make_metric(CONTROL, alone, stderr=alone_stderr),
        )
        return make_record(HYBRID, seed=seed, metrics=metrics, main_metric="perplexity")

    return made


def effect_of(*records: Record, scores: Scores = no_scores) -> BranchEffect:
    (cells,) = group_seeds(records)
    effect = branch_effect(cells, scores)
    assert effect is not None
    return effect


def verdict_of(*records: Record) -> str:
    effect = effect_of(*records)
    return effect.verdict(effect.change.p_value if effect.change else None)


def note(*records: Record, scores: Scores = no_scores) -> str:
    ((text,),) = branch_notes(group_seeds(records), scores).values()
    return text


def answered(
    make_record: MakeRecord,
    make_metric: MakeMetric,
    seeds: Sequence[tuple[list[int], list[int]]],
    model: str = HYBRID,
) -> tuple[list[Record], Scores]:
    """Records of a hybrid that answers documents rightly or wrongly with its linear branch and without."""
    records, kept = [], {}
    for seed, (together, alone) in enumerate(seeds):
        shares = {"accuracy": together, f"accuracy_{WITHOUT_BRANCH}": alone}
        metrics = [
            make_metric(name, mean, "1", True, math.sqrt(mean * (1 - mean) / (len(each) - 1)), len(each))
            for name, each in shares.items()
            for mean in [sum(each) / len(each)]
        ]
        record = make_record(model, "glue/sst2", seed, metrics=tuple(metrics), cell_id=f"{model}-{seed}")
        records.append(record)
        kept[record.cell_id] = [
            {"row": i, "correct": one, WITHOUT_BRANCH: {} if one == other else {"correct": other}}
            for i, (one, other) in enumerate(zip(together, alone, strict=True))
        ]
    return records, kept_scores(lambda record: kept[record.cell_id])


def test_scores_of_the_same_documents_are_paired(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    # Of 400 documents the two answer 325 alike; of the others the hybrid is right on 53 and its window alone on 22.
    together = [1] * 268 + [1] * 53 + [0] * 22 + [0] * 57
    alone = [1] * 268 + [0] * 53 + [1] * 22 + [0] * 57
    (record,), scores = answered(make_record, make_metric, [(together, alone)])
    change = effect_of(record, scores=scores).change
    assert change is not None
    assert change.worse == pytest.approx(-31 / 400)
    assert change.p_value == pytest.approx(stats.binomtest(53, 75).pvalue, abs=5e-4)
    assert note(record, scores=scores) == (
        "hedgehog:window=64 on glue/sst2: accuracy 0.802 ± 0.020 with its linear branch, 0.725 ± 0.022 without; "
        "the branch makes it better by 0.0775, paired over 400 documents, p = 0.00026; its linear branch helps."
    )
    # Unpaired, the two intervals overlap, and the largest error decides nothing.
    assert note(record).endswith("undecided, as no predictions were kept to pair the two scores.")


def test_documents_and_seeds_both_add_their_spread(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    rng = np.random.default_rng(0)
    seeds = [
        ([int(x) for x in rng.random(200) < together], [int(x) for x in rng.random(200) < alone])
        for together, alone in ((0.9, 0.7), (0.85, 0.75), (0.8, 0.6))
    ]
    records, scores = answered(make_record, make_metric, seeds)
    gaps = np.array([np.subtract(together, alone) for together, alone in seeds])
    variance = gaps.mean(axis=0).var(ddof=1) / 200 + gaps.mean(axis=1).var(ddof=1) / 3
    change = effect_of(*records, scores=scores).change
    assert change is not None
    assert (-change.worse, change.stderr) == pytest.approx((gaps.mean(), math.sqrt(variance)), rel=0.05)
    assert "paired over 200 documents and 3 seeds, p = " in note(*records, scores=scores)


def test_p_values_are_adjusted_over_the_hybrids_of_a_column(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    # Right alone on 14 and on 4 of 100 documents: p is about 0.02, and 0.04 after adjustment for two, 0.06 for three.
    answers = [([1] * 14 + [0] * 4 + [1] * 82, [0] * 14 + [1] * 4 + [1] * 82)]
    named = [answered(make_record, make_metric, answers, f"{HYBRID}:seed={i}") for i in range(3)]
    by_cell = {record.cell_id: scores for found, scores in named for record in found}

    def scores(record: Record, metric: Metric) -> SampleScores | None:
        return by_cell[record.cell_id](record, metric)

    for count, helps in ((1, True), (2, True), (3, False)):
        records = [record for found, _ in named[:count] for record in found]
        (notes,) = branch_notes(group_seeds(records), scores).values()
        assert [said.endswith("its linear branch helps.") for said in notes] == [helps] * count


def test_a_branch_that_changes_no_answer_does_no_work(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    (record,), scores = answered(make_record, make_metric, [([1] * 30 + [0] * 10, [1] * 30 + [0] * 10)])
    assert note(record, scores=scores).endswith("without; its linear branch does no work.")
    (record,), scores = answered(make_record, make_metric, [([1, 0] * 20, [0, 1] * 20)])
    assert note(record, scores=scores).endswith("its linear branch does no work that can be told from chance.")


@pytest.mark.parametrize(
    ("together", "alone", "stderrs", "verdict"),
    [
        (30.0, 30.0, (0.5, 0.5), "does no work"),
        (30.0, 30.0, (None, None), "does no work"),
        (30.0, 32.1, (0.5, 0.5), "helps"),
        (32.1, 30.0, (0.5, 0.5), "harms"),
        (30.0, 31.9, (0.5, 0.5), "undecided, as no predictions were kept"),
        (30.0, 31.9, (None, 0.5), "undecided without standard errors"),
        (30.0, math.inf, (0.5, None), "not finite"),
        (math.inf, math.inf, (None, None), "not finite"),
    ],
)
def test_without_predictions_the_verdict_of_one_seed_holds_for_any_correlation_of_the_scores(
    hybrid: Callable[..., Record],
    together: float,
    alone: float,
    stderrs: tuple[float | None, float | None],
    verdict: str,
) -> None:
    assert verdict in verdict_of(hybrid(together, alone, *stderrs))


def test_a_score_that_should_be_high_is_helped_by_a_branch_that_raises_it(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    names = ("accuracy", "accuracy_without_linear_branch")
    metrics = tuple(make_metric(name, v, "1", True, 0.01) for name, v in zip(names, (0.9, 0.8), strict=True))
    record = make_record(HYBRID, metrics=metrics)
    assert effect_of(record).gain == pytest.approx(0.1)
    assert verdict_of(record) == "its linear branch helps"


def test_seeds_pair_so_that_their_common_spread_cancels(hybrid: Callable[..., Record]) -> None:
    records = [hybrid(base, base + gain, seed=i) for i, (base, gain) in enumerate([(30, 1.0), (35, 1.1), (25, 0.9)])]
    effect = effect_of(*records)
    assert effect.gain == pytest.approx(1.0)
    assert effect.change is not None
    t = 1 / (0.1 / math.sqrt(3))
    assert effect.change.p_value == pytest.approx(2 * stats.t.sf(t, 2))
    assert "the branch makes it better by 1, paired over 3 seeds, p = 0.0033; its linear branch helps." in note(
        *records
    )


def test_two_seeds_must_agree_closely_to_show_a_difference(hybrid: Callable[..., Record]) -> None:
    wide = [hybrid(30, 31, seed=0), hybrid(30, 31.5, seed=1)]
    close = [hybrid(30, 31, seed=0), hybrid(30, 31.05, seed=1)]
    assert verdict_of(*wide) == "its linear branch does no work that can be told from chance"
    assert verdict_of(*close) == "its linear branch helps"
    assert verdict_of(hybrid(30, 31, seed=0), hybrid(30, 29, seed=1)).endswith("told from chance")
    assert verdict_of(hybrid(30, 30, seed=0), hybrid(31, 31, seed=1)) == "its linear branch does no work"
    assert verdict_of(hybrid(30, math.inf, seed=0), hybrid(math.inf, 30, seed=1)).startswith("undecided")


def test_a_seed_without_the_control_is_left_out_of_both_scores(
    hybrid: Callable[..., Record], make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    other = make_record(HYBRID, seed=1, metrics=(make_metric(value=99.0),))
    effect = effect_of(hybrid(30, 31), other)
    assert effect.together == (30.0, 0.5)


def test_other_models_and_sweeps_have_no_note(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    points = [make_metric(name, 5.0, at={"seq_len": n}) for n in (1, 2) for name in ("ms", "ms_without_linear_branch")]
    records = [make_record("softmax"), make_record(HYBRID, "throughput", metrics=tuple(points), main_metric="ms")]
    assert branch_notes(group_seeds(records)) == {}
    assert "ms_without_linear_branch" in leaderboard_markdown(records)


def test_secondary_metrics_have_tables_of_their_own_and_no_percentage(
    hybrid: Callable[..., Record], make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    elu = make_record("elu", metrics=(make_metric(value=40.0), make_metric("attention_kl_swapped", 3.0, "nats")))
    records = [make_record("softmax"), elu, hybrid(25.0, 26.0)]
    rows = leaderboard_rows(records)
    secondary = [row for row in rows if row.metric.startswith("attention_kl") or row.metric == CONTROL]
    assert [row.percent_recovered for row in secondary] == [None] * 4
    assert not any(row.is_main for row in secondary)
    ((main),) = main_rows(rows).values()
    assert {row.metric for row in main} == {"perplexity"}
    lines = leaderboard_markdown(records).splitlines()
    kl = "wikitext2<br>attention_kl_swapped \\[nats\\] ↓ | wikitext2<br>attention_kl_distilled \\[nats\\] ↓"
    start = lines.index("### Attention divergence from softmax")
    assert lines[start + 2 : start + 6] == [
        f"| model | {kl} |",
        "|---|---:|---:|",
        "| elu | 3.00 ± 0.25 | – |",
        "| hedgehog:window=64 | 2.00 ± 0.10 | 0.50 ± 0.10 |",
    ]
    start = lines.index("### Hybrids without their linear branch")
    assert lines[start + 2 : start + 5] == [
        "| model | wikitext2<br>perplexity_without_linear_branch ↓ |",
        "|---|---:|",
        "| hedgehog:window=64 | 26.00 ± 0.50 |",
    ]
    assert f"- {note(records[-1])}" in lines
    assert "| model | wikitext2<br>perplexity ↓ |" in lines


def test_each_task_has_its_columns_and_the_group_counts_main_metrics_alone(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    def converted(task: str) -> Record:
        kl = [make_metric(f"attention_kl_{when}", 1.0, "nats") for when in ("distilled", "swapped")]
        return make_record("hedgehog", task, metrics=(make_metric("accuracy", 0.8, "1", True), *kl))

    tasks = ("glue/cola", "glue/sst2")
    softmax = [make_record("softmax", task, metrics=(make_metric("accuracy", 0.9, "1", True),)) for task in tasks]
    records = [*softmax, *map(converted, tasks)]
    (section,) = sections(leaderboard_rows(records))
    (table,) = section.secondary
    assert [(column.label, column.detail.split()[0]) for column in table.columns] == [
        (task, f"attention_kl_{when}") for task in tasks for when in ("swapped", "distilled")
    ]
    scores = group_scores(leaderboard_rows(records), tasks_of={"glue": tasks})
    assert [score.percent_recovered for score in scores] == pytest.approx([100.0, 100 * 8 / 9])


def test_a_control_at_the_single_point_of_the_main_metric_is_no_sweep(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    names = ("accuracy", "accuracy_without_linear_branch")
    metrics = tuple(make_metric(name, 0.5, "1", True, 0.01, at={"seq_len": 64}) for name in names)
    text = leaderboard_markdown([make_record(HYBRID, metrics=metrics)])
    assert "### Hybrids without their linear branch" in text
    assert text.count("###") == 1
    assert "its linear branch does no work." in text


def test_the_page_shows_the_tables_and_the_note_under_their_section(hybrid: Callable[..., Record]) -> None:
    text = render([hybrid(30.0, 30.0)], "html")
    section = text[text.index('<h2 id="section-1">wikitext2') : text.index('id="cells"')]
    assert "<h4>Attention divergence from softmax</h4>" in section
    assert "30.00 ± 0.50 with its linear branch, 30.00 ± 0.50 without; its linear branch does no work.</li>" in section


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0% of the scored tokens have a context longer than its window, so the score says nothing about linear"),
        (0.004, "fewer than 1% of the scored tokens"),
        (0.5, "50% of the scored tokens have a context longer than its window."),
        (0.999, "more than 99% of the scored tokens"),
        (1.0, "100% of the scored tokens"),
    ],
)
def test_the_exposure_of_a_hybrid_is_told(
    share: float, told: str, make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    metrics = (make_metric(), make_metric("linear_exposure", share, "1", None, None))
    ((text,),) = audit_notes(group_seeds([make_record(HYBRID, metrics=metrics)])).values()
    assert f"{HYBRID} on wikitext2: {told}" in text


def test_an_audit_is_told_over_seeds_and_a_control_without_a_number_as_such(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    def audited(seed: int) -> Record:
        metrics = (
            make_metric(value=20.0 + seed),
            make_metric("perplexity_without_attention", 300.0 + 2 * seed),
            make_metric("perplexity_with_softmax", None, status="error"),
        )
        return make_record("hedgehog", seed=seed, metrics=metrics)

    ((text,),) = audit_notes(group_seeds([audited(0), audited(1)])).values()
    assert text == (
        "hedgehog on wikitext2: perplexity 20.50 ± 0.50 as it is, and the same weights give 301.0 ± 1.0 with no "
        "attention, no number with softmax attention."
    )
