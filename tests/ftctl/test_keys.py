"""ftctl keys, as a process."""

import json

import pytest

from tests.ftctl.conftest import Daemon


async def test_a_new_key_stands_alone_on_stdout(daemon: Daemon) -> None:
    ran = await daemon.run("keys", "create", "ci")
    assert (ran.status, ran.out) == (0, "ftd_key1_secret\n")
    assert ran.err == "made key1 of project default; the key is not shown again\n"
    (key,) = daemon.door.keys.rows.values()
    assert (key.name, sorted(key.scopes), key.expires_at) == (
        "ci", ["infer", "read", "submit"], None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("length", "seconds"), [("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", 2_592_000)]
)
async def test_what_a_key_may_do_and_until_when(daemon: Daemon, length: str, seconds: int) -> None:
    ran = await daemon.run(
        "keys", "create", "x", "--scopes", "read, admin", "--project", "team",
        "--expires", length, "-o", "json",
    )  # fmt: skip
    assert ran.status == 0
    made = json.loads(ran.out)
    assert (made["key"], made["project"]) == ("ftd_key1_secret", "team")
    assert made["scopes"] == ["admin", "read"]
    assert made["expires_at"] - made["created_at"] == seconds


async def test_what_cannot_be_is_said(daemon: Daemon) -> None:
    ran = await daemon.run("keys", "create", "x", "--expires", "soon")
    assert (ran.status, ran.out) == (2, "")
    assert "'soon' is no length of time" in ran.err
    ran = await daemon.run("keys", "create", "x", "--scopes", "read,root")
    assert (ran.status, ran.out) == (1, "")
    assert "'root' is not one of" in ran.err
    ran = await daemon.run("keys", "revoke", "x")
    assert ran.status == 3
    assert "`ftctl keys list` shows the keys" in ran.err
    assert not daemon.door.keys.rows


async def test_a_list_tells_no_secret(daemon: Daemon) -> None:
    await daemon.run("keys", "create", "first", "--project", "team")
    await daemon.run("keys", "create", "second", "--expires", "1d")
    table = await daemon.run("keys", "list")
    titles, second, first = (line.split() for line in table.out.splitlines())
    assert titles == ["KEY", "NAME", "PROJECT", "SCOPES", "AGE", "USED", "EXPIRES", "REVOKED"]
    assert first[:4] == ["key1", "first", "team", "infer,read,submit"]
    assert first[5] == "never"
    assert len(second) == len(first) + 2, "a day and a time"
    listed = await daemon.run("keys", "list", "-o", "json", "--limit", "1")
    assert json.loads(listed.out)["has_more"]
    assert "secret" not in table.out + listed.out
    names = await daemon.run("keys", "list", "-o", "name", "--after", "key2")
    assert names.out == "key1\n"


async def test_a_key_is_revoked(daemon: Daemon) -> None:
    await daemon.run("keys", "create", "x")
    ran = await daemon.run("keys", "revoke", "key1")
    assert (ran.status, ran.out, ran.err) == (0, "key1\n", "revoked\n")
    shown = json.loads((await daemon.run("keys", "list", "-o", "json")).out)["data"][0]
    assert shown["object"] == "key"
    assert shown["revoked_at"] is not None
