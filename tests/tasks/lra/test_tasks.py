"""Tests of the tasks of Long Range Arena, from their data to their metrics."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import Capability, ModelShape, Settings
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.settings import TrainSettings
from hedgebench.harness.registry import mechanisms, tasks
from hedgebench.results.reference.load import load_reference
from hedgebench.tasks.base import FROM_SCRATCH, DataUnavailableError, Sources, Task
from hedgebench.tasks.data import file_hashes
from hedgebench.tasks.lra.images import IMAGE, grey_pixels
from hedgebench.tasks.lra.listops import LISTOPS, ListOpsSettings
from hedgebench.tasks.lra.pathfinder import PATHFINDER
from hedgebench.tasks.lra.protocol import PAPER_BACKBONE
from hedgebench.tasks.lra.retrieval import RETRIEVAL
from hedgebench.tasks.lra.scenes import PathfinderSettings
from hedgebench.tasks.lra.text import TEXT

TASKS = {name: task for name, task in tasks().items.items() if name.startswith("lra/")}
TINY: Mapping[str, Settings] = {
    "lra/digits": {},
    "lra/image": {"train_rows": 20, "validation_rows": 5},
    "lra/listops": {
        "min_length": 10, "max_length": 40, "max_depth": 5, "train_rows": 60, "validation_rows": 10, "test_rows": 12
    },
    "lra/pathfinder": {
        "image_size": 16, "dashes": 4, "distractors": 1, "train_rows": 40, "validation_rows": 10, "test_rows": 12
    },
    "lra/retrieval": {"max_length": 24},
    "lra/text": {"max_length": 24, "tokenizer": "byte"},
}  # fmt: skip
LENGTHS = {"lra/listops": 2_000, "lra/text": 4_096, "lra/retrieval": 4_000, "lra/image": 1_024, "lra/pathfinder": 1_024}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()


def write_pairs(folder: Path, rows: int) -> None:
    """Pairs that are alike where the label says so, with quotes, and texts of different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "eval", "test"):
        lines = [
            "\t".join([f"{i % 2}.0", f"A{i}", f"B{i}", f'{split} "{i}' + "x" * i, f"{split}{i}" if i % 2 else ""])
            for i in range(rows)
        ]
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def stocked(sources: Sources) -> Sources:
    """A mirror with stand-ins for the data sets that are downloaded."""
    assert sources.mirror is not None
    write_pairs(sources.mirror / "datasets" / "OpenNLPLab" / "lra" / "data" / "aan", 30)
    reviews = pandas.DataFrame({"text": [f"review {i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    pictures = pandas.DataFrame({
        "img": [{"bytes": png(i), "path": f"{i}.png"} for i in range(40)], "label": [i % 10 for i in range(40)]
    })  # fmt: skip
    for repo, frame in (("stanfordnlp/imdb", reviews), ("uoft-cs/cifar10", pictures)):
        folder = sources.mirror / "datasets" / repo / "plain_text"
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return sources


def test_the_names_are_those_of_the_papers_table_and_one_stand_in() -> None:
    printed = {name for name in load_reference().table(6).row("Hedgehog").values if name.startswith("lra/")}
    assert set(TASKS) == printed | {"lra/digits"} == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_declarations_hang_together(name: str) -> None:
    info = TASKS[name].info
    assert isinstance(TASKS[name], Task)
    assert (info.main_metric, info.backbone, info.recipes) == ("accuracy", "encoder", FROM_SCRATCH)
    assert info.needs == {Capability.CLASSIFIER}
    assert len(info.data) == 1
    for scale, chosen in info.scales.items():
        assert set(chosen.backbone) <= set(BACKBONES["encoder"].sizes[scale])
        TrainSettings.of({"steps": 1, "batch_size": 1, "lr": 1.0, **chosen.train})
    assert info.scales["paper"].backbone == PAPER_BACKBONE


@pytest.mark.parametrize("name", LENGTHS)
def test_paper_scale_is_the_benchmarks(name: str) -> None:
    chosen = TASKS[name].info.scales["paper"]
    assert chosen.train["lr"] == 1e-4
    assert chosen.train["weight_decay"] == 0
    assert {"lra/listops": 5_000, "lra/text": 20_000, "lra/retrieval": 30_000, "lra/image": 35_000}.get(
        name, 62_400
    ) == chosen.train["steps"]
    length = chosen.settings.get("max_length") or int(str(chosen.settings.get("image_size", 32))) ** 2
    assert length == LENGTHS[name]


def test_the_papers_splits_have_their_published_sizes() -> None:
    listops, pathfinder = ListOpsSettings(), PathfinderSettings()
    assert (listops.train_rows, listops.validation_rows, listops.test_rows) == (96_000, 2_000, 2_000)
    assert (pathfinder.train_rows, pathfinder.validation_rows, pathfinder.test_rows) == (160_000, 20_000, 20_000)


@pytest.mark.parametrize("name", TINY)
def test_each_trains_predicts_and_scores_at_the_size_of_smoke(name: str, stocked: Sources) -> None:
    task, settings = TASKS[name], {**TASKS[name].info.scales["smoke"].settings, **TINY[name]}
    data = task.load(settings, stocked, limit=10)
    assert data.train is not None
    size = {**BACKBONES["encoder"].sizes["smoke"], "width": 16, "mlp_width": 32, "head_width": 8}
    precision = Precision.of("cpu", "float32")
    adapter = build_scratch(
        parse_spec("hedgehog", mechanisms().get), BACKBONES["encoder"], size, data.shape, 0, precision
    )
    stage = {**task.info.scales["smoke"].train, "steps": 2, "batch_size": 4, "eval_every": 1, "lr": 1e-3}
    history = train(adapter.model, data.train, data.validation, TrainSettings.of(stage), seed=0, precision=precision)
    assert [point.step for point in history.curves if point.split == "validation"] == [1, 2]
    rows = task.predict(adapter, data, settings)
    metrics = {metric.name: metric for metric in task.score(rows, settings)}
    assert metrics["accuracy"].n == len(rows) == 10
    assert metrics["accuracy"].stderr is not None
    assert task.identify(settings, stocked).fingerprint == task.identify(settings, stocked).fingerprint


@pytest.mark.parametrize("name", ["lra/image", "lra/retrieval", "lra/text"])
def test_missing_data_are_named_with_where_they_belong(name: str, sources: Sources) -> None:
    folder = TASKS[name].info.data[0].split("@")[0]
    repo = "/".join(folder.split("/")[:2])
    with pytest.raises(DataUnavailableError, match=rf"{repo} \(.*\) is not available") as raised:
        TASKS[name].identify(TASKS[name].info.scales["smoke"].settings, sources)
    assert f"{sources.mirror}/datasets/{repo}: there is no folder" in str(raised.value)
    assert "Pass --mirror DIR" in str(raised.value)


def test_documents_are_read_apart_and_an_empty_one_is_an_end_of_text(stocked: Sources) -> None:
    data = RETRIEVAL.load({"max_length": 10}, stocked)
    assert data.shape == ModelShape(context_length=10, vocab_size=257, num_classes=2, towers=2)
    assert data.test.tokens.shape == (30, 2, 10)
    assert data.test.labels.tolist() == [i % 2 for i in range(30)]
    first, second = data.test.tokens[1]
    assert bytes(first[:8].tolist()) == b'test "1x'
    assert bytes(second[:5].tolist()) == b"test1"
    assert data.test.lengths[:2].tolist() == [[7, 1], [8, 5]]
    assert data.test.tokens[0, 1, 0] == 256
    assert RETRIEVAL.identify({}, stocked).splits == {"train": 30, "eval": 30, "test": 30}
    assert data.validation is not None
    assert bytes(data.validation.inputs[1, 0, :4].tolist()) == b"eval"


def test_files_of_pairs_are_hashed_and_counted_once_for_a_plan_and_all_splits(
    stocked: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)
    read: list[str] = []

    def counted(name: str, whole: Callable[[Path], str]) -> Callable[[Path], str]:
        def read_whole(file: Path) -> str:
            read.append(f"{name} {file.name}")
            return whole(file)

        return read_whole

    for name in ("_digest", "_lines"):
        monkeypatch.setattr(file_hashes, name, counted(name, getattr(file_hashes, name)))
    identity = RETRIEVAL.identify({}, stocked)
    RETRIEVAL.load({"max_length": 10}, stocked)
    assert RETRIEVAL.identify({}, stocked) == identity
    splits = ("train", "eval", "test")
    assert sorted(read) == sorted(
        f"{kind} new_aan_pairs.{split}.tsv" for kind in ("_digest", "_lines") for split in splits
    )
    assert stocked.mirror is not None
    write_pairs(stocked.mirror / "datasets" / "OpenNLPLab" / "lra" / "data" / "aan", 31)
    assert RETRIEVAL.identify({}, stocked).splits == {"train": 31, "eval": 31, "test": 31}
    assert len(read) == 12


def test_fewer_pairs_are_a_sample_in_the_order_of_the_data(stocked: Sources) -> None:
    whole, fewer = (RETRIEVAL.load({"max_length": 30, "test_rows": rows}, stocked).test for rows in (None, 7))
    places = [whole.tokens[:, 0].tolist().index(row) for row in fewer.tokens[:, 0].tolist()]
    assert len(places) == 7
    assert places == sorted(places) != list(range(7))


def test_pictures_become_grey_by_the_weights_of_itu_601(stocked: Sources) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = grey_pixels([png(3)])[0].reshape(32, 32)
    assert np.abs(grey - colours @ np.array([0.299, 0.587, 0.114])).max() <= 1
    data = IMAGE.load({"validation_rows": 5}, stocked)
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 40)
    assert data.test.labels.tolist() == [i % 10 for i in range(40)]
    assert (data.test.tokens[3] == grey.reshape(-1)).all()
    assert not {row.tobytes() for row in data.train.inputs} & {row.tobytes() for row in data.validation.inputs}


def test_a_picture_of_another_size_is_refused() -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (8, 4)).save(file, "png")
        with pytest.raises(ValueError, match="a picture has 8 by 4 pixels"):
            grey_pixels([file.getvalue()])


def test_digits_are_split_without_overlap_and_hold_every_class(sources: Sources) -> None:
    data = TASKS["lra/digits"].load({}, sources)
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (1_198, 200, 399)
    assert set(data.test.labels.tolist()) == set(range(10))
    assert data.train.inputs.max() == 16


def test_reviews_are_bytes_and_a_tenth_chooses_the_checkpoint(stocked: Sources) -> None:
    data = TEXT.load({"tokenizer": "byte", "max_length": 8}, stocked)
    assert data.shape == ModelShape(context_length=8, vocab_size=257, num_classes=2)
    assert data.validation is not None
    assert len(data.validation) == 4
    assert bytes(data.test[0].tokens[0].tolist()) == b"review 0"


def test_fewer_training_expressions_leave_the_others_as_they_were(sources: Sources) -> None:
    settings = dict(TINY["lra/listops"])
    whole, fewer = (LISTOPS.load({**settings, "train_rows": rows}, sources) for rows in (60, 7))
    assert whole.train is not None
    assert fewer.train is not None
    width = fewer.test.tokens.shape[1]
    assert (whole.test.tokens[:, :width] == fewer.test.tokens).all()
    assert (whole.train.inputs[:7] == fewer.train.inputs).all()
    splits = [set(map(bytes, part)) for part in (whole.train.inputs, whole.test.tokens)]
    assert not splits[0] & splits[1]


def test_the_seed_of_the_data_changes_it_and_the_evaluation_batch_does_not(sources: Sources) -> None:
    for task in (LISTOPS, PATHFINDER):
        settings = dict(TINY[task.info.name])
        identity = task.identify(settings, sources)
        assert identity.source == "generated"
        assert task.identify({**settings, "batch_size": 2}, sources).fingerprint == identity.fingerprint
        assert task.identify({**settings, "data_seed": 1}, sources).fingerprint != identity.fingerprint


@pytest.mark.parametrize(
    ("task", "wrong", "message"),
    [
        (LISTOPS, {"max_depth": 1}, "max_depth is 1; allowed: 2 or more, such as 10"),
        (LISTOPS, {"min_length": 9, "max_length": 10}, "max_length is 10; it takes at least min_length"),
        (PATHFINDER, {"image_size": 8}, "image_size is 8; allowed: 12 or more"),
        (RETRIEVAL, {"max_length": 2}, "max_length is 2; allowed: 8 or more"),
    ],
)
def test_impossible_settings_are_refused(task: Any, wrong: Settings, message: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=message):
        task.identify(wrong, sources)


def test_real_reviews_have_their_known_sizes(real_mirror: Path, sources: Sources) -> None:
    settings: Settings = {"tokenizer": "byte", "max_length": 32, "train_rows": 100, "test_rows": 50}
    there = replace(sources, mirror=real_mirror)
    assert TEXT.identify(settings, there).splits == {"train": 25_000, "test": 25_000}
    data = TEXT.load(settings, there)
    assert data.validation is not None
    assert (len(data.validation), len(data.test[0].labels)) == (1_000, 50)
