"""A cell's key changes with what can change its numbers, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.model_code import MODEL_CODE
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.cell import Cell
from hedgebench.harness.plan import NO_DATA
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.task_spec import decided
from hedgebench.results.record import DataIdentity
from hedgebench.tasks.base import Sources

MakeCell = Callable[..., Cell]
OTHER: dict[str, Any] = {
    "model": "elu",
    "backbone": "encoder",
    "task": "other",
    "task_version": 2,
    "recipe": "scratch",
    "scale": "small",
    "seed": 1,
    "limit": 5,
    "device": "cuda",
    "dtype": "bfloat16",
    "settings": {"task": {}},
    "data": DataIdentity("other", "1", "f00d", "generated"),
    "scoring": "other",
    "machine": "H200",
    "weights": "0123abc",
    "model_code": MODEL_CODE + 1,
    "own_code": "c0de",
}


def test_code_made_in_a_session_is_part_of_the_key_alone_and_changes_no_other_key(make_cell: MakeCell) -> None:
    cell = make_cell()
    plain = asdict(cell)
    del plain["own_code"], plain["data"]["splits"], plain["data"]["source"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert cell.key == hashlib.sha256(text.encode()).hexdigest()[:16]
    own = make_cell(own_code="c0de")
    assert own.key != cell.key
    assert own.peer_key == cell.peer_key


def test_every_field_of_a_cell_is_tried_here() -> None:
    assert set(OTHER) == {f.name for f in fields(Cell)}


@pytest.mark.parametrize("name", OTHER)
def test_the_key_changes_with_each_field(make_cell: MakeCell, name: str) -> None:
    assert make_cell().key != make_cell(**{name: OTHER[name]}).key


@pytest.mark.parametrize("name", OTHER)
def test_the_peer_key_is_the_same_for_other_models_and_seeds_alone(make_cell: MakeCell, name: str) -> None:
    same = make_cell().peer_key == make_cell(**{name: OTHER[name]}).peer_key
    assert same == (name in ("model", "seed", "own_code"))


@pytest.mark.parametrize("change", [{"source": "hub"}, {"splits": {"test": 2}}])
def test_where_the_same_data_lies_does_not_change_the_key(make_cell: MakeCell, change: dict[str, Any]) -> None:
    cell = make_cell()
    assert cell.key == replace(cell, data=replace(cell.data, **change)).key


@pytest.mark.parametrize("change", [{"fingerprint": "x"}, {"revision": "2"}, {"details": {"tokenizer": "bpe"}}])
def test_other_data_changes_the_key(make_cell: MakeCell, change: dict[str, Any]) -> None:
    cell = make_cell()
    assert cell.key != replace(cell, data=replace(cell.data, **change)).key


values = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=5), st.none())
groups = st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=3)


def cell_with(settings: Any) -> Cell:
    data = DataIdentity("a", "b", "c", "generated")
    return Cell("m", "b", "t", 1, "r", "s", 0, None, "cpu", "float32", settings, data, "5c0re")


@given(groups)
def test_the_order_of_settings_does_not_change_the_key(settings: dict[str, dict[str, Any]]) -> None:
    turned = {group: dict(reversed(values.items())) for group, values in reversed(settings.items())}
    assert cell_with(settings).key == cell_with(turned).key


@given(groups, groups)
def test_two_cells_have_one_key_only_if_their_settings_are_equal(a: Any, b: Any) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (cell_with(a).key == cell_with(b).key) == same


def test_a_key_is_a_file_name_and_the_same_in_every_process(make_cell: MakeCell) -> None:
    script = "import sys; from test_cell import cell_with; print(cell_with({'task': {'a': (1, 2), 'b': 0.1}}).key)"
    folder = __file__.rpartition("/")[0]
    other = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    key = cell_with({"task": {"b": 0.1, "a": (1, 2)}}).key
    assert other.stdout.strip() == key
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")


def test_settings_are_flattened_for_the_record(make_cell: MakeCell) -> None:
    cell = make_cell(settings={"task": {"length": 8}, "train": {"lr": 0.1}})
    assert cell.flat_settings() == {"task.length": 8, "train.lr": 0.1}
    assert cell.title == "softmax / gpt / naughty / seed 0"


def test_a_job_survives_the_way_to_its_process_with_its_cells_key(
    make_job: Callable[..., CellJob], naughty: object
) -> None:
    job = make_job(sources=Sources(Path("/mirror"), Path("/cache"), offline=True))
    cell = replace(job.cell, settings={"task": {"lengths": (1, 2), "stride": None}})
    job = replace(job, planned=replace(job.planned, cell=cell))
    back = pickle.loads(pickle.dumps(job))
    assert back == job
    assert back.cell.key == job.cell.key


def test_every_model_task_and_backbone_can_be_sent_to_a_process(
    make_job: Callable[..., CellJob], naughty: object
) -> None:
    planned = make_job().planned
    for name, task in registry.tasks().items.items():
        cell = replace(planned.cell, settings={"task": {}}, data=NO_DATA)
        sent = replace(planned, task=decided(task, {}), cell=cell)
        assert pickle.loads(pickle.dumps(sent)).task == sent.task, name
    for name, mechanism in registry.mechanisms().items.items():
        sent = replace(
            planned, cell=replace(planned.cell, model=name), spec=parse_spec(name, registry.mechanisms().get)
        )
        assert pickle.loads(pickle.dumps(sent)).spec.mechanism is mechanism, name
    for name, backbone in BACKBONES.items():
        assert pickle.loads(pickle.dumps(replace(planned, backbone=backbone))).backbone == backbone, name
