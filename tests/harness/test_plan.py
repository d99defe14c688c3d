"""From what was asked for to cells, and every name that does not exist told with the nearest."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from hedgebench.adapters.base import Adapter, Capability, Settings, UnsupportedError
from hedgebench.harness import environment, plan, registry
from hedgebench.harness.cell import PlannedCell
from hedgebench.harness.config import RunConfig
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.registry import Registry
from hedgebench.results.names import UsageError
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.tasks.base import DataUnavailableError, Row, Sources, Task, TaskData, TaskInfo, TaskScale


@dataclass(frozen=True)
class FakeTask:
    """A task that is only planned; `identify` does what it is told."""

    info: TaskInfo
    identified: list[Settings]
    error: Exception | None = None

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        self.identified.append(settings)
        if self.error is not None:
            raise self.error
        return DataIdentity("fake", "1", repr(settings), "generated")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        raise NotImplementedError

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        raise NotImplementedError

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        raise NotImplementedError


def fake(name: str, error: Exception | None = None, **changes: Any) -> FakeTask:
    scale = TaskScale({"length": 8, "batch_size": 4}, train={"steps": 5}, backbone={"width": 32})
    info = TaskInfo(
        name=name,
        version=3,
        summary="",
        main_metric="accuracy",
        data=(),
        licence="",
        citation="",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        scales={"smoke": scale, "small": replace(scale, settings={"length": 16})},
    )
    return FakeTask(replace(info, **changes), [], error)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, FakeTask]:
    tasks = [
        fake("glue/cola"),
        fake("glue/sst2"),
        fake("glue/wnli"),
        fake("recall"),
        fake("timing", recipes=("zero-shot",), own_device=True),
        fake("quality", recipes=("zero-shot",)),
        fake("classify", needs=frozenset({Capability.CLASSIFIER})),
        fake("no_data", DataUnavailableError("org/name: looked in /mirror; pass --mirror DIR")),
        fake("no_library", ModuleNotFoundError("No module named 'datasets'")),
        fake("no_vision", UnsupportedError("it reads images")),
        fake("bad_setting", ValueError("length is 8; it takes an odd number")),
        fake("only_scratch", recipes=("scratch",)),
        fake("kernel", model="hedgehog:map=softmax"),
        fake("short", scales={"smoke": TaskScale({"context_length": 64}, train={"steps": 5})}),
    ]
    items = {task.info.name: task for task in tasks}
    typed: Mapping[str, Task] = dict(items)
    monkeypatch.setattr(registry, "tasks", lambda: Registry("task", typed, {"lost": "ImportError: no torch2"}))
    return items


def planned(*tasks: str, models: tuple[str, ...] = ("softmax",), **values: Any) -> list[PlannedCell]:
    return make_plan(RunConfig(models=models, tasks=tasks, **values))


pytestmark = pytest.mark.usefixtures("known")


def test_every_model_meets_every_task_and_seed_in_the_order_given() -> None:
    cells = [p.cell for p in planned("recall", "glue/cola", models=("elu", "softmax"), seeds=(1, 0))]
    assert [(c.task, c.model, c.seed) for c in cells] == [
        (task, model, seed) for task in ("recall", "glue/cola") for model in ("elu", "softmax") for seed in (1, 0)
    ]


@pytest.mark.parametrize("pattern", ["glue/*", "*/*", "gl*"])
def test_a_glob_names_its_tasks(pattern: str) -> None:
    assert [p.cell.task for p in planned(pattern)] == ["glue/cola", "glue/sst2", "glue/wnli"]


def test_a_group_is_the_tasks_that_the_paper_takes_for_it() -> None:
    assert [p.cell.task for p in planned("glue")] == ["glue/cola", "glue/sst2"]


def test_the_same_cell_asked_for_twice_is_planned_once() -> None:
    models = ("softmax", "softmax:backend=auto", "softmax@gpt")
    assert len(planned("recall", "rec*", "recall", models=models)) == 1


@pytest.mark.parametrize(
    ("tasks", "values", "message"),
    [
        (("recal",), {}, "unknown task 'recal'; did you mean recall"),
        (("glu/*",), {}, "unknown task 'glu/"),
        (("lost",), {}, "task 'lost' is a plugin that could not be loaded: ImportError: no torch2"),
        (("recall",), {"models": ("sofmax",)}, "unknown model 'sofmax'; did you mean softmax"),
        (
            ("recall",),
            {"models": ("elu@hf:./a", "b")},
            "unknown model 'b' .*; nor is there a folder './a,b', if the comma is part of its name",
        ),
        (("recall",), {"models": ("taylor:feature=1",)}, "unknown option of model taylor 'feature'; did you mean"),
        (("recall",), {"models": ("taylor:feature_dim=0",)}, "feature_dim is 0; allowed: int of at least 1"),
        (("recall",), {"models": ("hedgehog:map=exq",)}, "unknown value of option map 'exq'; did you mean exp"),
        (("recall",), {"models": ("hedgehog:map",)}, "not of the form KEY=VALUE"),
        (("recall",), {"models": ("elu@gtp",)}, "unknown backbone 'gtp'; did you mean gpt"),
        (("recall",), {"backbone": "gtp"}, "unknown backbone 'gtp'"),
        (
            ("only_scratch",),
            {"recipe": "zero-shot"},
            "unknown recipe of task only_scratch with backbone gpt, which is trained from scratch, 'zero-shot'",
        ),
        (("recall",), {"scale": "paper"}, "unknown scale of task recall 'paper'"),
        (("recall",), {"overrides": {"lenght": "1"}}, "unknown setting 'lenght'; did you mean length"),
        (("recall",), {"overrides": {"length": "x"}}, "setting length is 'x'; allowed: int"),
        (("recall",), {"overrides": {"backbone.layers": "0"}}, "layers is 0; allowed: 1 or more"),
        (("recall",), {"overrides": {"backbone.heads": "none"}}, "setting backbone.heads is 'none'; allowed: int"),
        (("recall",), {"overrides": {"backbone.width": "-64"}}, "width is -64; allowed: 1 or more"),
        (("recall",), {"overrides": {"backbone.heads": "3"}}, "backbone gpt: width 32 is not a multiple of heads 3"),
        (("recall",), {"overrides": {"backbone.kv_heads": "4"}}, "heads 2 is not a multiple of kv_heads 4"),
        (("recall",), {"overrides": {"backbone.dropout": "1"}}, "dropout is 1.0; allowed: from 0 to below 1"),
        (("recall",), {"overrides": {"batch_size": "0"}}, "task.batch_size is 0; allowed: a whole number from 1"),
        (("bad_setting",), {}, "task bad_setting: length is 8; it takes an odd number"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(
    tasks: tuple[str, ...], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        planned(*tasks, **values)


def test_a_backbone_in_the_spec_wins_over_the_runs_and_the_tasks() -> None:
    cells = [p.cell.backbone for p in planned("classify", models=("elu", "elu@vit"), backbone="encoder")]
    assert cells == ["encoder", "vit"]
    assert planned("recall")[0].cell.backbone == "gpt"


def test_a_recipe_that_is_asked_for_leaves_tasks_alone_that_take_times() -> None:
    recipes = {p.cell.task: p.cell.recipe for p in planned("recall", "timing", recipe="scratch")}
    assert recipes == {"recall": "scratch", "timing": "zero-shot"}
    assert planned("recall", recipe="zero-shot")[0].cell.recipe == "zero-shot"


def test_a_recipe_that_trains_is_refused_where_quality_is_measured_and_nothing_trained() -> None:
    assert [planned("quality", recipe=recipe)[0].cell.recipe for recipe in (None, "zero-shot")] == ["zero-shot"] * 2
    message = (
        r"unknown recipe of task quality .*'scratch'.*\(allowed: zero-shot\); the task trains nothing: convert the "
        r"model with bench convert --to FOLDER, and measure it with --backbone hf:FOLDER"
    )
    with pytest.raises(UsageError, match=message):
        planned("quality", recipe="scratch")


def test_settings_come_from_scale_then_task_then_override() -> None:
    (cell,) = (p.cell for p in planned("recall", overrides={"train.lr": "0.5", "backbone.layers": "1"}))
    assert cell.settings["task"] == {"length": 8, "batch_size": 4}
    assert (cell.settings["train"]["steps"], cell.settings["train"]["lr"]) == (5, 0.5)
    assert (cell.settings["backbone"]["width"], cell.settings["backbone"]["layers"]) == (32, 1)
    assert planned("recall", scale="small")[0].cell.settings["task"]["length"] == 16
    assert planned("recall", task_scales={"recall": "small"})[0].cell.scale == "small"


def test_a_recipe_without_training_has_no_training_settings() -> None:
    (cell,) = (p.cell for p in planned("recall", recipe="zero-shot"))
    assert set(cell.settings) == {"task", "backbone"}
    with pytest.raises(UsageError, match=r"unknown setting 'train\.lr'"):
        planned("recall", recipe="zero-shot", overrides={"train.lr": "1"})


def test_an_override_needs_to_fit_one_task_only() -> None:
    assert len(planned("recall", "timing", overrides={"train.lr": "1"})) == 2


def test_an_override_that_the_tasks_own_settings_win_over_is_refused(tmp_path: Path) -> None:
    for key in ("length", "task.length"):
        with pytest.raises(UsageError, match=f"--set {key} changes nothing"):
            planned("recall:length=16", overrides={key: "32"})
    own, plain = planned("recall:length=16", "recall", overrides={"length": "32"})
    assert [p.cell.settings["task"]["length"] for p in (own, plain)] == [16, 32]
    file = tmp_path / "own.toml"
    file.write_text('[mine]\ntask = "recall"\nlength = 16\n', encoding="utf-8")
    with pytest.raises(UsageError, match="--set length changes nothing"):
        planned(str(file), overrides={"length": "32"})


def test_a_batch_size_is_set_where_the_task_has_one() -> None:
    assert planned("recall", batch_size="2")[0].cell.settings["task"]["batch_size"] == 2
    assert planned("recall", batch_size="auto")[0].cell.settings["task"]["batch_size"] == 4
    assert "batch_size" not in planned("recall", scale="small", batch_size="2")[0].cell.settings["task"]


@pytest.mark.parametrize(
    ("task", "kind", "unsupported"),
    [
        ("no_data", "DataUnavailableError", False),
        ("no_library", "ModuleNotFoundError", False),
        ("no_vision", "UnsupportedError", True),
    ],
)
def test_a_task_that_cannot_run_is_planned_with_the_problem_and_the_others_go_on(
    task: str, kind: str, unsupported: bool
) -> None:
    missing, there = planned(task, "recall")
    assert missing.problem is not None
    assert (missing.problem.type, missing.unsupported, missing.cell.data.source) == (kind, unsupported, "missing")
    assert there.problem is None


def test_a_backbone_that_cannot_do_the_task_is_planned_as_unsupported() -> None:
    (cell,) = planned("classify")
    assert cell.unsupported
    assert cell.problem is not None
    assert cell.problem.message == "backbone gpt cannot do what classify needs: classifier"


def test_data_is_identified_once_for_all_models_and_seeds(known: Mapping[str, FakeTask]) -> None:
    planned("recall", models=("softmax", "elu", "relu"), seeds=(0, 1))
    assert len(known["recall"].identified) == 1


def test_only_timings_belong_to_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    timing, recall = planned("timing", "recall")
    assert (timing.task.info.own_device, timing.cell.machine) == (True, environment.cpu_name())
    assert (recall.task.info.own_device, recall.cell.machine) == (False, "")
    monkeypatch.setattr(plan, "cpu_name", lambda: "another processor")
    assert [p.cell.key == q.cell.key for p, q in zip(planned("timing", "recall"), [timing, recall], strict=True)] == [
        False,
        True,
    ]


def test_a_device_is_chosen_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((False, ("cpu", "float32")), (True, ("cuda", "bfloat16"))):
        monkeypatch.setattr(plan, "has_cuda_device", lambda there=there: there)
        (cell,) = (p.cell for p in planned("recall"))
        assert (cell.device, cell.dtype) == expected
    assert planned("recall", device="cpu", dtype="bfloat16")[0].cell.dtype == "bfloat16"


def test_editing_the_scoring_code_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned("recall")[0].cell
    copy = tmp_path / "test_plan.py"
    copy.write_text(Path(__file__).read_text(encoding="utf-8") + "\nCHANGED = 1\n", encoding="utf-8")
    monkeypatch.setattr(inspect, "getfile", lambda _: str(copy))
    after = planned("recall")[0].cell
    assert (before.scoring == after.scoring, before.key == after.key) == (False, False)


def test_data_comes_from_the_flag_then_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    config = RunConfig(models=("elu",), tasks=("recall",))
    assert make_sources(config).mirror is None
    monkeypatch.setenv("HEDGEBENCH_MIRROR", str(tmp_path / "b"))
    with pytest.raises(UsageError, match=r"mirror '.*b', which HEDGEBENCH_MIRROR names, is not a folder"):
        make_sources(config)
    (tmp_path / "b").mkdir()
    assert make_sources(config).mirror == tmp_path / "b"
    assert make_sources(replace(config, mirror=str(tmp_path / "a"))).mirror == tmp_path / "a"


def test_no_network_is_used_with_the_flag_or_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(models=("elu",), tasks=("recall",))
    assert make_sources(config).offline
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not make_sources(config).offline
    assert make_sources(replace(config, offline=True)).offline


def test_a_plan_is_the_same_every_time() -> None:
    first, second = (planned("recall", "glue", seeds=(0, 1), models=("elu", "taylor")) for _ in range(2))
    assert first == second
    assert len({p.cell.key for p in first}) == 12


def test_a_task_that_brings_its_own_model_needs_none_and_takes_no_other() -> None:
    for models in ((), ("elu", "softmax")):
        assert [p.cell.model for p in planned("kernel", models=models)] == ["hedgehog:map=softmax"]
    with pytest.raises(UsageError, match="no models given: pass --models"):
        planned("kernel", "recall", models=())


def test_a_task_that_has_no_pickle_is_sent_to_its_process_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    local: Any = replace(fake("local"), identified=cast(Any, [lambda: None]))
    monkeypatch.setattr(registry, "tasks", lambda: Registry("task", {"local": local}))
    (cell,) = planned("local", models=("elu",))
    assert pickle.loads(pickle.dumps(cell)).task is local


def test_pickled_weights_are_planned_only_where_they_are_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (tmp_path / "pytorch_model.bin").touch()
    for is_trusted in (False, True):
        (cell,) = planned("recall", backbone=f"hf:{tmp_path}", trust_remote_code=is_trusted)
        assert (cell.problem is None, cell.weights is not None) == (is_trusted, is_trusted)


def test_layers_that_the_backbone_does_not_have_are_refused() -> None:
    assert planned("short", models=("none:keep=1",))[0].cell.model == "none:keep=1"
    with pytest.raises(UsageError, match="keep=2: the model has no layer 2; it has layers 0 to 1"):
        planned("short", models=("none:keep=2",))


def test_a_control_that_trains_on_is_refused_where_no_teacher_is_trained() -> None:
    control = "softmax:continued=true"
    assert planned("recall", models=(control,), recipe="scratch-conversion")[0].cell.model == control
    with pytest.raises(UsageError, match="recipes that begin with training a teacher, and scratch does not"):
        planned("recall", models=(control,), recipe="scratch")


def test_a_window_that_holds_the_whole_context_is_refused() -> None:
    refused = "the window of hedgehog:window=64 holds 64 tokens, and the context of short has 64"
    with pytest.raises(UsageError, match=refused):
        planned("short", models=("hedgehog:window=64",), scale="smoke")
    assert planned("short", models=("hedgehog:window=63",), scale="smoke")
