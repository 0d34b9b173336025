"""Schemathesis against a running gateway: what the OpenAPI document says of requests is sent, well and badly formed, and what it says
of answers must hold. `FUZZ_EXAMPLES` sets how many random cases each operation gets, `FUZZ_SEED` repeats a run; `-m full` does more.
Each case has a minute: that one with a millisecond gets 503 or 504 is no error.
"""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from deployments.gateway.app import build_app
from deployments.gateway.context import DEADLINE_HEADER
from tests.house import House

CHECKS = "not_a_server_error,ignored_auth,response_schema_conformance,content_type_conformance,status_code_conformance"
SEED = int(os.environ.get("FUZZ_SEED", "4711"))


async def fuzz(house: House, folder: Path, examples: int) -> int:
    """Run schemathesis; returns how many cases it has sent, and fails with what it found."""
    (folder / "openapi.json").write_text(json.dumps(build_app(house.context).openapi()))
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "st", "run", "openapi.json", "--url", house.url, "--checks", CHECKS, "--seed", str(SEED),
        "--header", f"Authorization: Bearer {house.key}", "--header", f"{DEADLINE_HEADER}: 60000",
        "--max-examples", str(examples), "--phases", "examples,coverage,fuzzing",
        "--generation-database", "none", "--continue-on-failure", "--workers", "1", "--no-color", "--warnings", "off",
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told = (await process.communicate())[0].decode()
    sent = re.search(r"(\d+) generated", told)
    sys.stdout.write(f"seed {SEED}: {sent.group(1) if sent else 'no'} cases\n")  # what repeats the run
    assert process.returncode == 0, told[-20_000:]
    assert sent
    return int(sent.group(1))


@pytest.mark.timeout(300)
async def test_what_the_document_promises_holds_for_any_request(house: House, tmp_path: Path) -> None:
    assert await fuzz(house, tmp_path, int(os.environ.get("FUZZ_EXAMPLES", "15"))) >= 2000


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_it_holds_for_many_more(house: House, tmp_path: Path) -> None:
    assert await fuzz(house, tmp_path, int(os.environ.get("FUZZ_EXAMPLES", "550"))) >= 20_000
