from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgebench.adapters.backbone import BACKBONES, CheckpointError
from hedgebench.adapters.base import Capability
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.harness.weights import backbone_names
from hedgebench.harness.weights.backbone_names import backbone_from_name
from hedgebench.harness.weights.locate import locate
from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.base import DataUnavailableError, Sources

from ...adapters.tiny_models import save_tiny

REVISION = "b" * 40


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """An empty mirror, and an empty cache of the hub, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Sources(mirror=tmp_path / "mirror", cache=tmp_path / "cache", offline=True)


def put_in_cache(tmp_path: Path) -> Path:
    repo = tmp_path / "hub" / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    return save_tiny("bert", repo / "snapshots" / REVISION)


def test_declared_names_come_first(sources: Sources) -> None:
    assert backbone_from_name("gpt2", sources) is BACKBONES["gpt2"]


def test_an_unknown_name_is_answered_with_the_nearest(sources: Sources) -> None:
    with pytest.raises(UnknownNameError, match="did you mean smollm2-135m"):
        backbone_from_name("smollm", sources)


@pytest.mark.parametrize(("model_type", "can"), [("llama", Capability.GENERATE), ("bert", Capability.CLASSIFIER)])
def test_a_folder_says_what_it_can_do(model_type: str, can: Capability, sources: Sources, tmp_path: Path) -> None:
    folder = save_tiny(model_type, tmp_path / "some folder")
    backbone = backbone_from_name(f"hf:{folder}", sources)
    assert backbone.name == f"hf:{folder}"
    assert can in backbone.capabilities
    assert backbone.sizes["smoke"] == {"weights": "float32", "gradient_checkpointing": False}
    assert locate(backbone, sources).place == folder


def test_a_relative_folder_is_kept_by_its_whole_path(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny("llama", tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    backbone = backbone_from_name("hf:./here", sources)
    assert backbone.checkpoint is not None
    assert backbone.checkpoint.folder == str(folder)


def test_a_folder_can_stand_in_a_model_spec(tmp_path: Path) -> None:
    spec = parse_spec(f"hedgehog:map=softmax@hf:{tmp_path}/a:b", mechanisms().get)
    assert (spec.canonical, spec.backbone) == ("hedgehog:map=softmax", f"hf:{tmp_path}/a:b")


@pytest.mark.parametrize("place", ["", "/no/such/folder", "./nothing", "../nothing", "a/b/c", "a b"])
def test_a_place_that_is_neither_folder_nor_id_is_refused(place: str, sources: Sources) -> None:
    with pytest.raises(UnknownNameError, match="there is no folder"):
        backbone_from_name(f"hf:{place}", sources)


def test_a_folder_of_an_unsupported_type_is_refused(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(CheckpointError, match="unknown model_type 't5'"):
        backbone_from_name(f"hf:{tmp_path}", sources)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        backbone_from_name(f"hf:{tmp_path}", sources)


def test_an_id_is_looked_for_in_the_mirror_first(sources: Sources, tmp_path: Path) -> None:
    put_in_cache(tmp_path)
    assert sources.mirror is not None
    folder = save_tiny("gpt2", sources.mirror / "models" / "org" / "tiny")
    backbone = backbone_from_name("hf:org/tiny", sources)
    assert Capability.LANGUAGE_MODEL in backbone.capabilities
    assert locate(backbone, sources).place == folder


def test_an_id_in_the_cache_is_pinned_at_the_revision_that_lies_there(sources: Sources, tmp_path: Path) -> None:
    folder = put_in_cache(tmp_path)
    backbone = backbone_from_name("hf:org/tiny", sources)
    assert backbone.checkpoint is not None
    assert (backbone.checkpoint.repo, backbone.checkpoint.revision) == ("org/tiny", REVISION)
    assert locate(backbone, sources).place == folder


def test_the_default_revision_of_the_hub_is_pinned(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgebench.tasks.data.sources.hub_problem", lambda sources: None)
    monkeypatch.setattr(backbone_names, "_ask_hub", lambda name, repo: (REVISION, {"model_type": "mistral"}))
    backbone = backbone_from_name("hf:org/tiny", sources)
    assert backbone.checkpoint is not None
    assert backbone.checkpoint.revision == REVISION


def test_an_id_that_is_nowhere_names_the_places(sources: Sources) -> None:
    with pytest.raises(DataUnavailableError, match="hf:org/tiny is not available") as caught:
        backbone_from_name("hf:org/tiny", sources)
    assert f"mirror {sources.mirror}/models/org/tiny" in str(caught.value)
    assert "offline was chosen" in str(caught.value)
