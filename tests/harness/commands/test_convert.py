"""`bench convert` keeps a card beside the model, and uploads the folder; what cannot be uploaded is told at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub import constants

from hedgebench.harness.commands import convert
from hedgebench.harness.config import RunConfig
from hedgebench.harness.running.runner import make_job
from hedgebench.results.record import Failure, Metric
from hedgebench.results.store import RunStore

from ...adapters.tiny_models import save_tiny
from ..conftest import Finished
from .fake_hub import FakeHub, serving

Bench = Callable[..., Finished]
WEIGHTS = b"weights" * 1000


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A conversion of a tiny Llama on six articles, planned in earnest."""
    folder = tmp_path / "mirror" / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True)
    lines = [line for i in range(6) for line in ("", f" = Article {i} = \n", "", " good film \n")]
    for split in ("train", "validation", "test"):
        pd.DataFrame({"text": lines}).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    base = save_tiny("llama", tmp_path / "llama")
    given = ["--model", "hedgehog", "--base", f"hf:{base}", "--data", "wikitext2", "--mirror", str(tmp_path / "mirror")]
    return ["convert", *given, "--to", str(tmp_path / "made")]


@pytest.fixture(autouse=True)
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Conversions write a record and an empty model instead of training; the configurations asked for."""
    asked: list[RunConfig] = []

    def run(config: RunConfig, console: Any, quiet: bool, planned: Any) -> int:
        asked.append(config)
        store = RunStore(Path(config.output or ""))
        store.create()
        record = make_job(config, store, planned[0]).record("ok", None)
        store.write_record(replace(record, metrics=(Metric("perplexity", 21.5, "1", False, 0.25, 60),)))
        folder = Path(config.save_to)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        base = {"base": {"backbone": "", "source": "", "repo": ""}, "base_revision": "beef"}
        (folder / "provenance.json").write_text(json.dumps(base))
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        return 0

    monkeypatch.setattr(convert, "run", run)
    return asked


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the real client of the hub talks to over HTTP, with a token of this session."""
    with serving() as hub:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        for name, value in (("ENDPOINT", hub.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        yield hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's own client
def test_the_hubs_own_client_makes_the_repository_and_commits_every_file(
    bench: Bench, arguments: list[str], served: FakeHub, tmp_path: Path
) -> None:
    done = bench(*arguments, "--push", "org/made")
    assert done.code == 0, done.out
    assert f"uploaded: {served.url}/org/made/commit/1" in done.out
    assert served.repos == {"org/made": {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}}
    assert served.stored == {hashlib.sha256(WEIGHTS).hexdigest(): WEIGHTS}
    assert set(served.repos["org/made"]) == {"README.md", "config.json", "model.safetensors", "provenance.json"}


def test_a_token_that_the_hub_refuses_is_told_before_anything_is_converted(
    bench: Bench, arguments: list[str], served: FakeHub, monkeypatch: pytest.MonkeyPatch, asked_for: list[RunConfig]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    done = bench(*arguments, "--push", "org/made")
    assert (done.code, asked_for, served.repos) == (2, [], {})
    assert "the hub does not take the token: " in done.err
    assert "hf_of_another" not in done.err + done.out


def test_a_folder_has_a_card_without_an_upload_too(bench: Bench, arguments: list[str], tmp_path: Path) -> None:
    assert bench(*arguments).code == 0
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert "| perplexity ↓ | 21.50 | 0.25 | 60 |" in card
    assert f'from_pretrained("{tmp_path / "made"}")' in card


def test_a_conversion_that_runs_out_of_memory_fails(
    bench: Bench, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: RunConfig, console: Any, quiet: bool, planned: Any) -> int:
        store = RunStore(Path(config.output or ""))
        store.create()
        store.write_record(make_job(config, store, planned[0]).record("oom", Failure("Killed", "no memory left")))
        return 0

    monkeypatch.setattr(convert, "run", run)
    done = bench(*arguments)
    assert (done.code, done.out) == (3, "no model was written: no memory left\n")


def test_a_model_that_names_another_backbone_than_the_base_is_refused(bench: Bench, arguments: list[str]) -> None:
    base = arguments[arguments.index("--base") + 1]
    arguments[arguments.index("--model") + 1] = f"hedgehog@{base}"
    assert bench(*arguments).code == 0
    done = bench(*arguments[:-1], "elsewhere", "--base", f"{base}/.")
    assert (done.code, f"--model names the backbone {base}, and --base {base}/." in done.err) == (2, True)


@pytest.mark.parametrize(
    ("repo", "broken", "message"),
    [
        ("org/made", "no token", "hf auth login"),
        ("org/made", "offline", "the run is offline"),
        ("made", "", "give ORG/NAME"),
        ("org/a b", "", "give ORG/NAME"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_anything_is_converted(
    repo: str, broken: str, message: str, bench: Bench, arguments: list[str], served: FakeHub,
    monkeypatch: pytest.MonkeyPatch, asked_for: list[RunConfig],
) -> None:  # fmt: skip
    if broken == "no token":
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    elif broken == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    done = bench(*arguments, "--push", repo)
    assert done.code == 2
    assert message in done.err
    assert (asked_for, served.repos) == ([], {})


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's own client
def test_an_upload_that_fails_keeps_the_folder_and_says_how_to_upload_it(
    bench: Bench, arguments: list[str], served: FakeHub, tmp_path: Path
) -> None:
    served.is_full = True
    done = bench(*arguments, "--push", "org/made")
    assert done.code == 3
    told = f"not uploaded: Error while uploading 'model.safetensors' to the Hub.; the model is in {tmp_path / 'made'}"
    assert told in " ".join(done.out.split())
    assert f"hf upload org/made {tmp_path / 'made'}" in done.out
    assert (tmp_path / "made" / "README.md").is_file()
