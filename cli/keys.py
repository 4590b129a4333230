"""`reheatd keys`: makes, lists and revokes API keys, directly in the daemon's data folder."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli import render
from cli.options import ConfigOption
from reheatd.access.caller import ACTOR
from reheatd.access.keys import LOCAL, ApiKey, KeyStore
from reheatd.config import load_settings
from reheatd.control.ledger import Ledger
from reheatd.database import connect
from reheatd.errors import NotFoundError

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whom the key is for; the journal names it.")]
DataOption = Annotated[Path | None, typer.Option("--data-dir", help="Data folder of the daemon.")]


class RoleName(StrEnum):
    INFERENCE = "inference"
    ADMIN = "admin"


@app.command()
@render.json_or_text
def create(
    name: NameArgument,
    role: Annotated[
        RoleName, typer.Option(help="What it opens: the OpenAI surface, or administration as well.")
    ] = RoleName.INFERENCE,
    models: Annotated[
        str | None, typer.Option(help="Models that it may ask, e.g. policy,policy-v*; default: all.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Default: no limit.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests in flight; default: server.max_concurrent_per_key.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of prompts and answers together; default: no limit.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataOption = None,
) -> render.JsonThenText:
    """Make a key and print it, once: only its digest is kept. A running daemon knows it at once."""
    names = None if models is None else [model for part in models.split(",") if (model := part.strip())]
    with _opened(config, data_dir) as (db, folder):
        store, ledger = KeyStore(db), Ledger(db)
        with db:
            key, token = store.create(
                name,
                role.value,
                models=names,
                requests_per_minute=requests_per_minute,
                concurrency=concurrency,
                tokens_per_minute=tokens_per_minute,
            )
            ledger.requested(f"key {name} for {role.value} made")
    yield {**key.model_dump(mode="json"), "token": token}
    render.console.print(f"key {escape(name)} for {role.value} in {folder}; nobody can show it again:")
    print(token)


@app.command("list")
@render.json_or_text
def list_keys(config: ConfigOption = None, data_dir: DataOption = None) -> render.JsonThenText:
    """List all keys with what they may do; those that are revoked too."""
    with _opened(config, data_dir, must_exist=True) as (db, _):
        keys = KeyStore(db).all()
    yield {"keys": [key.model_dump(mode="json") for key in keys]}
    rows = render.table("name", "role", "models", "limits", "made", "used", "state", "id")
    for key in keys:
        rows.add_row(
            escape(key.name),
            key.role,
            "all" if key.models is None else escape(", ".join(key.models)),
            _limits(key),
            render.age(key.created_at),
            render.NOTHING if key.last_used_at is None else render.age(key.last_used_at),
            "[green]in use[/]" if key.revoked_at is None else f"[red]revoked[/] {render.age(key.revoked_at)}",
            f"[dim]{key.key_id}[/]",
        )
    render.console.print(rows)


@app.command()
@render.json_or_text
def revoke(name: NameArgument, config: ConfigOption = None, data_dir: DataOption = None) -> render.JsonThenText:
    """Revoke a key, for good. A running daemon refuses it from the next request on."""
    with _opened(config, data_dir, must_exist=True) as (db, _):
        store, ledger = KeyStore(db), Ledger(db)
        with db:
            key = store.revoke(name)
            ledger.requested(f"key {name} revoked")
    yield key.model_dump(mode="json")
    render.console.print(f"key {escape(name)} is revoked")


@contextmanager
def _opened(
    config: Path | None, data_dir: Path | None, *, must_exist: bool = False
) -> Iterator[tuple[sqlite3.Connection, Path]]:
    """The database of the data folder that `reheatd serve` would use, and the folder."""
    settings = load_settings(config, {} if data_dir is None else {"data_dir": data_dir})
    if must_exist and not settings.database_path.exists():
        raise NotFoundError(
            f"{settings.data_dir} holds no data of a daemon; name its data folder with --data-dir or --config",
            param="data_dir",
        )
    acting = ACTOR.set(LOCAL)
    try:
        with closing(connect(settings.database_path)) as db:
            yield db, settings.data_dir
    finally:
        ACTOR.reset(acting)


def _limits(key: ApiKey) -> str:
    limits = {
        "requests/min": key.requests_per_minute,
        "at once": key.concurrency,
        "tokens/min": key.tokens_per_minute,
    }
    return ", ".join(f"{limit} {what}" for what, limit in limits.items() if limit) or "none"
