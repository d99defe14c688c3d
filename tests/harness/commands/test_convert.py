"""`bench convert` keeps a card beside the model, and uploads the folder; what cannot be uploaded is told at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hedgebench.harness.commands import convert
from hedgebench.harness.config import RunConfig
from hedgebench.harness.running.runner import make_job
from hedgebench.results.record import Metric
from hedgebench.results.store import RunStore

from ...adapters.tiny_models import save_tiny
from ..conftest import Finished

Bench = Callable[..., Finished]


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that takes everything, and a token; the calls that reached it."""
    calls: dict[str, Any] = {}

    class Api:
        def whoami(self) -> dict[str, str]:
            return {"name": "org"}

        def create_repo(self, repo: str, exist_ok: bool) -> None:
            calls["made"] = repo, exist_ok

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
            calls["uploaded"] = repo_id, sorted(path.name for path in folder_path.iterdir())
            return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    calls["Api"] = Api
    return calls


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
        return 0

    monkeypatch.setattr(convert, "run", run)
    return asked


def test_a_folder_is_uploaded_with_its_card(bench: Bench, arguments: list[str], hub: dict[str, Any]) -> None:
    done = bench(*arguments, "--push", "org/made")
    assert done.code == 0
    assert hub["made"] == ("org/made", True)
    assert hub["uploaded"] == ("org/made", ["README.md", "config.json", "provenance.json"])
    assert "uploaded: https://huggingface.co/org/made/commit/1" in done.out


def test_a_folder_has_a_card_without_an_upload_too(bench: Bench, arguments: list[str], tmp_path: Path) -> None:
    assert bench(*arguments).code == 0
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert "| perplexity ↓ | 21.50 | 0.25 | 60 |" in card
    assert f'from_pretrained("{tmp_path / "made"}")' in card


@pytest.mark.parametrize(
    ("repo", "broken", "message"),
    [
        ("org/made", "no token", "hf auth login"),
        ("org/made", "offline", "the run is offline"),
        ("org/made", "refused", "the hub does not take the token"),
        ("made", "", "give ORG/NAME"),
        ("org/a b", "", "give ORG/NAME"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_anything_is_converted(
    repo: str, broken: str, message: str, bench: Bench, arguments: list[str], hub: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, asked_for: list[RunConfig],
) -> None:  # fmt: skip
    def refuse(_: object) -> None:
        raise OSError("401 unauthorised")

    if broken == "no token":
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    elif broken == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif broken == "refused":
        monkeypatch.setattr(hub["Api"], "whoami", refuse)
    done = bench(*arguments, "--push", repo)
    assert done.code == 2
    assert message in done.err
    assert asked_for == []


def test_an_upload_that_fails_keeps_the_folder_and_says_how_to_upload_it(
    bench: Bench, arguments: list[str], hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HfHubHTTPError("403 Forbidden", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(hub["Api"], "create_repo", refuse)
    done = bench(*arguments, "--push", "org/made")
    assert done.code == 3
    assert f"not uploaded: 403 Forbidden; the model is in {tmp_path / 'made'}" in done.out
    assert f"hf upload org/made {tmp_path / 'made'}" in done.out
    assert (tmp_path / "made" / "README.md").is_file()
