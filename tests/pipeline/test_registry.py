"""`headrace tenants`, `keys`, `models` and `audit`: an installation administered without its being up."""

import asyncio
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from deployments.core.config import Settings
from deployments.core.errors import TenantSuspended, Unauthenticated
from deployments.core.keys import Keys
from deployments.core.store import open_store
from deployments.core.types import Principal
from pipeline.cli.app import app


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file whose database is not there yet."""
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"applications": [{"args": {"data_dir": str(tmp_path / "data")}}]}))
    return file


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(config)])


def told(config: Path, *words: str) -> list[dict[str, Any]]:
    """What a command says as JSON."""
    done = run(config, *words, "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def verify(config: Path, secret: str) -> Principal:
    async def ask() -> Principal:
        settings = Settings(data_dir=config.parent / "data")
        store = open_store(settings)
        try:
            return await Keys(store, settings.pepper_bytes()).verify(secret)
        finally:
            await store.close()

    return asyncio.run(ask())


def test_the_first_tenant_and_its_key_are_made_on_an_empty_machine(config: Path) -> None:
    (made,) = told(config, "tenants", "add", "acme", "--limit", "requests_per_minute=60", "--model", "headrace", "--weight", "2")
    assert (made["id"], made["name"], made["limits"], made["models"], made["weight"]) == (
        "acme",
        "acme",
        {"requests_per_minute": 60},
        ["headrace"],
        2,
    )
    (key,) = told(config, "keys", "add", "acme", "--scope", "chat", "--scope", "admin", "--name", "first", "--days", "1")
    principal = verify(config, key["secret"])
    assert (principal.tenant, principal.scopes, principal.models) == ("acme", {"chat", "admin"}, {"headrace"})
    assert stat.S_IMODE((config.parent / "data" / "headrace.db").stat().st_mode) == 0o600


def test_a_tenant_is_changed_suspended_and_resumed(config: Path) -> None:
    told(config, "tenants", "add", "acme", "--region", "eu")
    (changed,) = told(config, "tenants", "set", "acme", "--cache", "exact", "--retention-days", "7")
    assert (changed["region"], changed["cache"], changed["retention_days"]) == ("eu", "exact", 7)
    (key,) = told(config, "keys", "add", "acme", "--scope", "chat")
    told(config, "tenants", "suspend", "acme")
    with pytest.raises(TenantSuspended):
        verify(config, key["secret"])
    told(config, "tenants", "resume", "acme")
    assert verify(config, key["secret"])
    assert told(config, "tenants", "list") == told(config, "tenants", "show", "acme")


def test_a_key_is_rotated_and_revoked(config: Path) -> None:
    told(config, "tenants", "add", "acme")
    (old,) = told(config, "keys", "add", "acme", "--scope", "chat")
    (new,) = told(config, "keys", "rotate", old["id"], "--overlap-s", "60")
    assert verify(config, old["secret"]).scopes == verify(config, new["secret"]).scopes
    told(config, "keys", "revoke", old["id"])
    with pytest.raises(Unauthenticated):
        verify(config, old["secret"])
    listed = told(config, "keys", "list", "acme")
    assert [(key["id"], key["revoked"]) for key in listed] == [(old["id"], True), (new["id"], False)]
    assert new["secret"][15:] not in json.dumps(listed)


def test_a_secret_is_printed_whole_on_a_narrow_terminal(config: Path) -> None:
    run(config, "tenants", "add", "acme")
    shown = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["keys", "add", "acme", "--scope", "chat", "--config", str(config)]).stdout
    (secret,) = [line.split()[-1] for line in shown.splitlines() if line.startswith("secret")]
    assert verify(config, secret).tenant == "acme"


def test_tables_are_for_people(config: Path) -> None:
    run(config, "tenants", "add", "acme", "--limit", "concurrent=4")
    assert "concurrent=4" in run(config, "tenants", "list").stdout
    assert run(config, "tenants", "show", "acme").stdout.splitlines()[0].split() == ["id", "acme"]


WRONG = [
    ["tenants", "show", "none"],
    ["tenants", "add", "a b"],
    ["tenants", "add", "acme", "--cache", "all"],
    ["tenants", "add", "acme", "--limit", "requests=1"],
    ["tenants", "add", "acme", "--limit", "concurrent"],
    ["keys", "add", "none", "--scope", "chat"],
    ["keys", "add", "none", "--scope", "root"],
    ["keys", "rotate", "key_none"],
    ["keys", "revoke", "key_none"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_can_not_be_done_is_said_in_a_line(config: Path, words: list[str]) -> None:
    done = run(config, *words)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_the_record_is_exported_and_a_touched_one_fails(config: Path) -> None:
    told(config, "tenants", "add", "acme")
    (key,) = told(config, "keys", "add", "acme", "--scope", "chat")
    entries = [json.loads(line) for line in run(config, "audit", "export").stdout.splitlines()]
    assert [(entry["act"], entry["actor"], entry["subject"]) for entry in entries] == [
        ("tenant.created", "cli", "acme"),
        ("key.minted", "cli", key["id"]),
    ]
    assert [json.loads(line)["number"] for line in run(config, "audit", "export", "--after", "1").stdout.splitlines()] == [2]
    (verdict,) = told(config, "audit", "verify")
    assert (verdict["entries"], verdict["head"], verdict["broken"]) == (2, entries[-1]["hash"], None)
    assert told(config, "audit", "verify", "--head", entries[0]["hash"])
    assert run(config, "audit", "verify", "--head", "00").exit_code == 1

    async def touch() -> None:
        store = open_store(Settings(data_dir=config.parent / "data"))
        async with store.write() as session:
            await session.execute(text("UPDATE audit SET actor = 'nobody' WHERE number = 2"))
        await store.close()

    asyncio.run(touch())
    done = run(config, "audit", "verify")
    assert done.exit_code == 1
    assert "entry 2: the entry was changed" in done.stderr


def test_a_model_is_added_listed_shown_and_removed(config: Path) -> None:
    own = "{name: own, base_url: 'https://own.example/v1', model: m, context_size: 8192}"
    words = ("--backend", "primary", "--backend", own, "--direct", "--on-break", "fail", "--limit", "requests_per_minute=60")
    assert run(config, "models", "add", "mine", *words).exit_code == 0
    mine = told(config, "models", "list")[-1]
    assert (mine["name"], mine["retrieves"], mine["on_break"]) == ("mine", False, "fail")
    assert mine["limits"] == {"requests_per_minute": 60, "tokens_per_minute": None}
    assert [one if isinstance(one, str) else (one["name"], one["context_size"]) for one in mine["backends"]] == ["primary", ("own", 8192)]
    assert json.loads(run(config, "models", "show", "mine").stdout) == mine
    assert "primary, own" in run(config, "models", "list").stdout
    assert run(config, "models", "remove", "mine").exit_code == 0
    assert [model["name"] for model in told(config, "models", "list")] == ["headrace", "headrace-direct"]
    acts = [json.loads(line)["act"] for line in run(config, "audit", "export").stdout.splitlines()]
    assert acts == ["model.added", "model.removed"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--backend", "nobody"), "no backend 'nobody'"),
        (("--backend", "{"), "YAML"),
        (("--backend", "{name: own, base_url: 'http://own/v1', model: m, api_key: sk-1}"), "a key is named"),
        (("--on-break", "shrug"), "on_break"),
        (("--limit", "requests_per_minute=none"), "requests_per_minute"),
    ],
)
def test_a_model_that_can_not_be_is_refused_with_a_reason(config: Path, words: tuple[str, ...], reason: str) -> None:
    done = run(config, "models", "add", "mine", *words)
    assert done.exit_code == 1
    assert reason in done.output


def test_a_tenants_threshold_is_set(config: Path) -> None:
    told(config, "tenants", "add", "acme", "--threshold", "0.25")
    assert told(config, "tenants", "show", "acme")[0]["threshold"] == 0.25
    assert run(config, "tenants", "set", "acme", "--threshold", "2").exit_code == 1


def test_the_command_line_imports_what_is_heavy_only_when_it_runs() -> None:
    script = (
        "import sys, pipeline.cli.app; sys.exit(str({'lancedb', 'torch', 'ray', 'fastapi', 'openai', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
