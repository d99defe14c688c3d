"""Tests that need a browser are skipped on a machine that has none, and fail where one is required."""

from __future__ import annotations

import shutil

import pytest

from .browsing import REQUIRED, require_browser


def test_without_a_browser_tests_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium and chromedriver not found; apt-get install"):
        require_browser()


def test_without_a_browser_that_is_required_tests_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "chromedriver" else f"/usr/bin/{name}")
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=r"^chromedriver not found"):
        require_browser()


def test_with_a_browser_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    require_browser()
