"""Faults injected into a loaded stack from the command line, once each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.full
def test_a_chaos_run_accounts_for_every_answer(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "loadtest.chaos", "--only", "3,4,13w", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    found = json.loads((tmp_path / "chaos.json").read_text())["faults"]
    assert [fault["number"] for fault in found] == ["3", "3s", "3g", "4", "13w"], done.stdout + done.stderr
    for fault in found:
        assert not fault["broken"], fault
        assert fault["answers"] > 20, fault
        assert sum(fault["fates"].values()) == fault["answers"]
        assert (fault["silent"], fault["lost"], fault["duplicated"]) == (0, 0, 0), fault
        assert fault["recovery_s"][0] is not None, fault
    assert next(fault for fault in found if fault["number"] == "3")["resumed"]
    assert done.returncode == int(any(fault["missed"] for fault in found))
    assert "edge killed" in (tmp_path / "chaos.md").read_text()
