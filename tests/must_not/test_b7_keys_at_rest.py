"""B7: a key can be read nowhere but in the answer that made it: not in the database, the record, an answer or the log."""

import logging
from pathlib import Path

import pytest

from tests.house import House


async def test_no_secret_is_anywhere_after_it_was_shown(house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    admin = await house.context.keys.mint("ours", ["admin", "tokens:mint", "chat"])
    async with house.http(admin.secret) as http:
        made = (await http.post("/admin/tenants/ours/keys", json={"scopes": ["chat"], "name": "app"})).json()
        rotated = (await http.post(f"/admin/keys/{made['id']}/rotate", json={"overlap_s": 60})).json()
        token = (await http.post("/v1/session_tokens", json={"user": "ann"})).json()["token"]
        for secret in (made["secret"], rotated["secret"], token, made["secret"][:-1] + "_", token[:-4] + "AAAA"):
            await http.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
        await house.context.refusals.flush()
        answers = [(await http.get(path)).text for path in ("/admin/tenants/ours/keys", "/admin/audit", "/admin/tenants")]
    secrets = [admin.secret, made["secret"], rotated["secret"]]
    hidden = [secret[15:-1] for secret in secrets] + [token.rsplit(".", 1)[1][:-4]]
    written = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert any(made["secret"][:15].encode() in content for content in written)  # the files looked through are the right ones
    for one in hidden:
        assert not any(one.encode() in content for content in written)
        assert not any(one in answer for answer in answers)
        assert one not in caplog.text
