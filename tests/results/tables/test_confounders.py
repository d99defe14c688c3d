from __future__ import annotations

from collections.abc import Callable

from hedgebench.results.record import KernelUse, Record
from hedgebench.results.tables.aggregate import group_seeds
from hedgebench.results.tables.confounders import Confounders, confounders

MakeRecord = Callable[..., Record]


def found(*records: Record) -> list[Confounders]:
    return confounders(group_seeds(records))


def test_models_that_ran_alike_differ_in_nothing(make_record: MakeRecord) -> None:
    assert found(make_record("softmax"), make_record("elu"), make_record("elu", seed=1)) == []


def test_kernels_settings_and_environment_are_told_where_they_differ(make_record: MakeRecord) -> None:
    other = make_record(
        "elu",
        kernels=(KernelUse("evaluate", "naive", "torch"),),
        settings={"train.lr": 0.02, "train.betas": (0.9, 0.999), "distill.steps": 7},
        environment={"torch": "2.14.0", "threads": 2},
    )
    (each,) = found(make_record("softmax"), other)
    assert each.models == ("elu", "softmax")
    assert dict(each.rows) == {
        "kernel in evaluate": ("naive (torch)", "chunk (torch)"),
        "train.lr": ("0.02", "0.01"),
        "distill.steps": ("7", "–"),
        "torch": ("2.14.0", "2.13.0"),
    }


def test_values_of_several_seeds_stand_side_by_side(make_record: MakeRecord) -> None:
    records = [make_record("elu", seed=seed, environment={"torch": f"2.{seed}"}) for seed in (0, 1)]
    (each,) = found(make_record("softmax", environment={"torch": "2.0"}), *records)
    assert each.rows == (("torch", ("2.0 or 2.1", "2.0")),)


def test_what_differs_between_tasks_alone_is_no_difference(make_record: MakeRecord) -> None:
    assert found(make_record(settings={"a": 1}), make_record(task="glue/sst2", settings={"a": 2})) == []
