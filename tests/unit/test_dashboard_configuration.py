"""The page of the configuration: values, meanings and origins, and no secret."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.config import load_settings
from reheatd.dashboard.values import HIDDEN, UNSET, shown
from tests.unit.dashboard_support import Client, DashboardWorld, Element, Page, browse, get

SECRET = "s3cr3t"


def settings_of(page: Page) -> dict[str, Element]:
    """The rows of the settings by name."""
    return {row.attributes["id"]: row for row in page.main.all("tr") if "id" in row.attributes}


def configured(folder: Path, text: str, **overrides: Any) -> DashboardWorld:
    """A dashboard of a daemon with this file."""
    (folder / "reheatd.toml").write_text(text)
    world = DashboardWorld(folder)
    world.settings = load_settings(folder / "reheatd.toml", {"data_dir": folder, **overrides})
    return world


def test_each_setting_has_value_meaning_and_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEATD_ENTROPY__INTERVAL_S", "20")
    world = configured(
        tmp_path, '[entropy]\ntop_k = 11\n[rl]\npreset = "paper"\n', server={"port": 0}, control={"mode": "auto"}
    )
    world.settings = world.settings.found_at_start("policy", "max_model_len", 2048, "what the policy was made for")

    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/ui/configuration")
        rows = settings_of(page)
        assert rows["entropy.interval_s"].text.startswith(
            "entropy.interval_s 20 default 120 environment REHEATD_ENTROPY__INTERVAL_S Least number of seconds"
        )
        assert f"11 default 20 file {tmp_path / 'reheatd.toml'}" in rows["entropy.top_k"].text
        assert "0 default 8000 command line" in rows["server.port"].text
        assert "2048 default auto found at the start: what the policy was made for" in rows["policy.max_model_len"].text
        assert "preset rl.preset = paper" in rows["rl.group_size"].text
        assert "auto now 64 default" in rows["entropy.max_tokens"].text, "what auto has found"
        assert rows["engine.replicas"].text.startswith("engine.replicas 1 default Number of engines")
        assert "auto command line" in rows["control.mode"].text, "a default that was given"
        assert [code.text for code in rows["policy.model"].all("td")[2].all("code")] == ["smollm2-135m-instruct"]

        page = await get(client, "/ui/configuration?changed=1")
        assert {"server.port", "entropy.top_k", "data_dir"} <= settings_of(page).keys()
        assert not {"control.mode", "engine.replicas"} & settings_of(page).keys()
        assert "checked" in page.main.one("input", name="changed").attributes
        page = await get(client, "/ui/configuration?text=TAP_address")
        assert [*settings_of(page)] == ["entropy.tap_address"]
        page = await get(client, "/ui/configuration?text=%3Cscript%3E")
        assert "There is no such setting." in page.main.text
        assert (await get(client, "/ui/configuration?changed=maybe", 400)).problem == "changed = 'maybe' is none of 1"

    browse(world, story)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    world = configured(
        tmp_path,
        f"""
        [broker]
        url = "rediss://:{SECRET}@broker.example:6380/2"
        [alerts]
        url = "https://hooks.example/{SECRET}"
        pagerduty_url = "https://ann:{SECRET}@pager.example/v2?token={SECRET}"
        [engine]
        extra_args = ["--hf-token", "{SECRET}", "--download-key={SECRET}", "--enforce-eager"]
        [task]
        path = "https://ann:{SECRET}@tasks.example/all.jsonl"
        arguments = {{ api_key = "{SECRET}", size = 20, deep = [{{ password = "{SECRET}" }}] }}
        """,
    )

    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/ui/configuration")
        assert SECRET not in page.answer.text
        rows = settings_of(page)
        assert "rediss://broker.example:6380/2" in rows["broker.url"].text
        assert "https://hooks.example/..." in rows["alerts.url"].text
        assert "--hf-token ... --download-key=... --enforce-eager" in rows["engine.extra_args"].text
        assert '"size": 20' in rows["task.arguments"].text and HIDDEN in rows["task.arguments"].text
        assert "tasks.example/all.jsonl" in rows["task.path"].text
        world.settings = load_settings(
            None, {"broker": {"url": "redis://host", "password_file": f"/{SECRET}"}, "data_dir": tmp_path}
        )

    browse(world, story)
    world = configured(tmp_path, f'[broker]\nurl = "redis://host"\npassword_file = "/{SECRET}"\n')

    async def hidden(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/ui/configuration")
        assert SECRET not in page.answer.text and HIDDEN in settings_of(page)["broker.password_file"].text

    browse(world, hidden)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, UNSET),
        ([], UNSET),
        (True, "true"),
        (0.0001, "0.0001"),
        (Path("a b"), "a b"),
        (["q_proj", "v_proj"], "q_proj v_proj"),
        ({"max_tokens": 5, "token": "x"}, '{"max_tokens": 5, "token": "set, but not shown"}'),
        ("http://u:p@ss/w@host/x", "http://...@host/x"),
        ("x" * 500, "x" * 400 + "..."),
    ],
)
def test_values_are_written_in_one_line(value: Any, says: str) -> None:
    assert shown(value) == says
