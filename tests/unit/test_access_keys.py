"""API keys at rest and in the daemon's memory: what is stored, who is known, and how much is left to whom."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reheatd.access.keys import ApiKey, KeyRing, KeyStore
from reheatd.access.quotas import Quota
from reheatd.access.startup import check_keys
from reheatd.access.tokens import id_of
from reheatd.access.uses import write_now
from reheatd.config import Settings
from reheatd.control.ledger import Ledger
from reheatd.database import connect
from reheatd.errors import BadInputError, ConflictError, NotFoundError, RateLimitError
from tests.unit.test_cli_commands import reheatd


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "reheatd.sqlite3")) as db:
        yield db


def keys_command(folder: Path, *arguments: str) -> dict[str, Any]:
    done = reheatd("keys", *arguments, "--data-dir", str(folder), "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_only_a_digest_is_stored_and_the_token_is_recognisable(db: sqlite3.Connection, tmp_path: Path) -> None:
    with db:
        key, token = KeyStore(db).create("alice", "admin", models=["policy"])
    assert token.startswith("rh-") and id_of(token) == key.key_id
    secret = token.rpartition("-")[2]
    assert len(secret) == 64  # 256 bits
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.key_id.encode() in stored
    assert secret.encode() not in stored and bytes.fromhex(secret) not in stored


def test_a_key_is_known_by_its_whole_token_until_it_is_revoked(db: sqlite3.Connection) -> None:
    store, ring = KeyStore(db), KeyRing(db)
    with db:
        key, token = store.create("alice")
    assert ring.find(token) == key
    for wrong in ("", "rh-", token[:-1], token + "0", f"rh-{key.key_id}-{'0' * 64}", token.upper(), "sk-proj-1"):
        assert ring.find(wrong) is None


def test_the_command_line_and_a_running_daemon_share_the_keys(db: sqlite3.Connection, tmp_path: Path) -> None:
    ring = KeyRing(db)  # of a daemon that runs already
    limits = ["--requests-per-minute", "3", "--concurrency", "2", "--tokens-per-minute", "500"]
    made = keys_command(tmp_path, "create", "ci", "--models", "policy, policy-v*", *limits)
    found = ring.find(made["token"])
    assert found is not None and (found.name, found.role, found.models) == ("ci", "inference", ["policy", "policy-v*"])
    assert (found.requests_per_minute, found.concurrency, found.tokens_per_minute) == (3, 2, 500)
    write_now(tmp_path / "reheatd.sqlite3", ring.take_uses())
    (listed,) = keys_command(tmp_path, "list")["keys"]
    assert "token" not in listed and listed["last_used_at"] >= listed["created_at"]
    keys_command(tmp_path, "revoke", "ci")
    assert ring.find(made["token"]) is None
    again = keys_command(tmp_path, "create", "ci", "--role", "admin")  # the name is free again
    assert again["token"] != made["token"]
    assert [key["revoked_at"] is None for key in keys_command(tmp_path, "list")["keys"]] == [False, True]
    entries = Ledger(db).entries(9)
    assert [(entry.event, entry.actor, entry.reason) for entry in entries] == [
        ("requested", "local", "key ci for inference made"),
        ("requested", "local", "key ci revoked"),
        ("requested", "local", "key ci for admin made"),
    ]


def test_what_the_commands_print_for_people(tmp_path: Path) -> None:
    made = reheatd("keys", "create", "bob", "--data-dir", str(tmp_path))
    assert made.returncode == 0 and id_of(made.stdout.splitlines()[-1]) is not None
    listed = reheatd("keys", "list", "--data-dir", str(tmp_path))
    assert "bob" in listed.stdout and made.stdout.splitlines()[-1] not in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "local"], "no name for a key"),
        (["create", "two words"], "no name for a key"),
        (["create", "bob", "--concurrency", "0"], "concurrency"),
        (["create", "bob", "--role", "root"], "root"),
        (["revoke", "nobody"], "reheatd keys list"),
        (["list", "--data-dir", "/nowhere"], "/nowhere holds no data"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(tmp_path / ".reheatd" / "reheatd.sqlite3").close()
    monkeypatch.chdir(tmp_path)
    done = reheatd("keys", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr


def test_a_name_is_taken_until_its_key_is_revoked(db: sqlite3.Connection) -> None:
    store = KeyStore(db)
    store.create("alice")
    with pytest.raises(ConflictError, match="alice exists"):
        store.create("alice")
    store.revoke("alice")
    with pytest.raises(NotFoundError, match="alice"):
        store.revoke("alice")
    store.create("alice")


def quota(clock: list[float], **limits: Any) -> Quota:
    return Quota(ApiKey(key_id="1", name="ci", role="inference", created_at=0, **limits), lambda: clock[0])


def test_requests_per_minute_come_back_with_time() -> None:
    clock = [0.0]
    limited = quota(clock, requests_per_minute=2)
    limited.admit()
    limited.admit()
    with pytest.raises(RateLimitError, match="2 requests per minute; try again in 30 s") as refused:
        limited.admit()
    assert refused.value.retry_after_s == 30
    clock[0] = 30.0
    limited.admit()
    with pytest.raises(RateLimitError):
        limited.admit()
    clock[0] = 1e6
    limited.admit()
    limited.admit()
    with pytest.raises(RateLimitError):
        limited.admit()  # it never holds more than a minute's worth


def test_tokens_per_minute_are_paid_after_they_are_used() -> None:
    clock = [0.0]
    limited = quota(clock, tokens_per_minute=60)
    limited.admit()
    limited.charge(150)
    with pytest.raises(RateLimitError, match="60 tokens per minute") as refused:
        limited.admit()
    assert refused.value.retry_after_s == 91
    limited.charge(-100)  # it was an estimate
    limited.admit()


def settings(folder: Path, **server: Any) -> Settings:
    return Settings.model_validate({"data_dir": folder, "server": server})


def test_a_server_for_others_needs_a_key_for_administration(tmp_path: Path) -> None:
    wide, made = settings(tmp_path, host="0.0.0.0"), []
    with pytest.raises(BadInputError, match=r"0\.0\.0\.0, so .*`reheatd keys create admin --role admin --data-dir"):
        check_keys(wide, lambda _, key: made.append(key.name))
    keys_command(tmp_path, "create", "ci")
    with pytest.raises(BadInputError, match="none is for administration"):
        check_keys(wide, lambda _, key: made.append(key.name))
    keys_command(tmp_path, "create", "ops", "--role", "admin")
    check_keys(wide, lambda _, key: made.append(key.name))
    keys_command(tmp_path, "revoke", "ops")
    with pytest.raises(BadInputError):
        check_keys(settings(tmp_path, require_keys=True), lambda _, key: made.append(key.name))
    check_keys(settings(tmp_path), lambda _, key: made.append(key.name))
    assert made == []


def test_the_first_key_can_be_made_at_the_first_start(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "admin.key"
    wide = settings(tmp_path / "data", host="::", admin_key_file=file)
    check_keys(wide, lambda db, key: Ledger(db).requested(f"key {key.name} made"))
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    with closing(connect(wide.database_path)) as db:
        found = KeyRing(db).find(token)
        assert found is not None and (found.name, found.role) == ("first", "admin")
        assert [entry.reason for entry in Ledger(db).entries(9)] == ["key first made"]
    check_keys(wide, lambda *_: pytest.fail("it is made once"))
    assert file.read_text().strip() == token
    keys_command(tmp_path / "data", "revoke", "first")
    check_keys(wide, lambda *_: None)
    assert file.read_text().strip() != token
    unwritable = settings(tmp_path / "other", host="::", admin_key_file=Path("/proc/nothing/admin.key"))
    with pytest.raises(BadInputError, match=r"/proc/nothing/admin\.key cannot be written"):
        check_keys(unwritable, lambda *_: None)
    with closing(connect(unwritable.database_path)) as db:
        assert KeyStore(db).all() == []
