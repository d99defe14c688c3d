from __future__ import annotations

import pytest

from hedgebench.results.report.assets import AssetError, assets, data_tables


def test_the_bundle_of_itables_becomes_a_script_without_exports_or_markup() -> None:
    found = assets()
    assert found.script.count("globalThis.DataTable=") == 1
    assert "export{" not in found.script
    for text in (found.script, found.theme):
        assert "</script" not in text.lower()
        assert "<!--" not in text
    assert "dt-container" in found.style
    assert "</style" not in found.style.lower()


def test_the_default_of_the_last_export_is_data_tables() -> None:
    bundle = 'const a=1;const s="export{x as default}y";export{a as default,b as jQuery};\n/* licence */\n'
    script = 'const a=1;const s="export{x as default}y";globalThis.DataTable=a;/* licence */'
    assert data_tables(bundle).splitlines()[0] == script


def test_without_itables_there_is_no_bundle_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgebench.results.report.assets.find_spec", lambda _: None)
    plain = assets.__wrapped__()
    assert "globalThis.DataTable" not in plain.script
    assert "itables" in plain.note
    assert assets().note == ""


@pytest.mark.parametrize("bundle", ["", "const a=1;", "const a=1;export{a as DataTable};"])
def test_a_bundle_of_another_shape_is_refused(bundle: str) -> None:
    with pytest.raises(AssetError, match="exports no default"):
        data_tables(bundle)
