"""The page of the journal: every decision, filtered, linked to, in pages and live."""

import time
from pathlib import Path

import pytest

from reheatd.access.caller import ACTOR
from reheatd.control.states import State
from tests.unit.control_support import finish_one
from tests.unit.dashboard_support import Client, DashboardWorld, Page, browse, first_event, get


def entries_of(page: Page) -> list[int]:
    return [int(row.attributes["id"][1:]) for row in page.main.all("tr") if "id" in row.attributes]


def reasons(page: Page) -> list[str]:
    return [row.all("td")[1].text for row in page.main.all("tr") if "id" in row.attributes]


def test_every_decision_has_its_figures_and_its_links(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        assert "There is no such entry." in (await get(client, "/ui/journal")).main.text
        world.see("collapsed", 0.7)
        world.ledger.requested("50% of <everything> asked", version=3)
        page = await get(client, "/ui/journal")
        assert reasons(page)[-1].startswith("collapsed: entropy of policy-v0 is 0.700 [0.650, 0.750] nats per token")
        assert "transition serving → collapsed" in page.main.text
        row = page.main.one("tr", id="e2") if reasons(page)[0].startswith("50%") else page.main.all("tr")[1]
        assert "50% of <everything> asked" in row.text and row.links["policy-v3"] == "/ui/versions/3"
        assert page.main.one(sse_connect="/ui/live/journal")

    browse(DashboardWorld(tmp_path, control={"mode": "observe"}), story)


def test_what_is_looked_for_is_found(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        began = time.time() - 1
        job_id = await finish_one(world)
        token = ACTOR.set("ann")
        world.ledger.requested("50% of it deleted", version=7)
        world.ledger.requested("505 of it deleted", version=8)
        ACTOR.reset(token)
        of_job = await get(client, f"/ui/journal?job={job_id}&event=")
        assert entries_of(of_job) and all(job_id in row.text for row in of_job.main.all("tr")[1:])
        assert reasons(await get(client, "/ui/journal?text=50%25+OF")) == ["50% of it deleted"]
        assert reasons(await get(client, "/ui/journal?version=policy-v8")) == ["505 of it deleted"]
        assert reasons(await get(client, "/ui/journal?actor=ann&version=7")) == ["50% of it deleted"]
        promoted = await get(client, "/ui/journal?event=promoted")
        assert len(entries_of(promoted)) == 1 and promoted.main.links["policy-v1"] == "/ui/versions/1"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(began))
        assert not entries_of(await get(client, f"/ui/journal?end={stamp}"))
        assert entries_of(await get(client, f"/ui/journal?start={stamp}"))[:2]
        page = await get(client, "/ui/journal?event=promoted&text=nothing")
        assert page.main.one("option", selected="").text == "promoted"
        assert page.main.one("input", name="text").attributes["value"] == "nothing"

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("event=rain", "event = 'rain' is none of transition, promoted"),
        ("version=seven", "seven"),
        ("start=soon", "start = 'soon' is not a time like 2026-01-31T18:30"),
        ("end=0001-01-01", "end = '0001-01-01' is not a time"),
        ("before=-1", "before = '-1' is not a whole number from 0 up"),
        ("entry=<script>", "entry = '<script>' is not a whole number from 1 up"),
        ("text=" + "x" * 201, "text has 201 characters"),
    ],
)
def test_what_cannot_be_looked_for_is_said_in_place(tmp_path: Path, query: str, says: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, f"/ui/journal?{query}", 400)
        assert says in page.problem and page.main.one("form")

    browse(DashboardWorld(tmp_path), story)


def test_a_long_journal_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.dashboard.journal.ENTRIES", 30)

    async def story(client: Client, world: DashboardWorld) -> None:
        for number in range(1, 101):
            world.ledger.requested(f"number {number}")
        page = await get(client, "/ui/journal?event=requested")
        assert entries_of(page) == [*range(100, 70, -1)] and "Newer" not in page.main.links
        page = await get(client, page.main.links["Older"])
        assert entries_of(page) == [*range(70, 40, -1)] and not page.main.all(hx_ext="sse, morph")
        page = await get(client, page.main.links["Older"])
        page = await get(client, page.main.links["Older"])
        assert entries_of(page) == [*range(10, 0, -1)] and "Older" not in page.main.links
        page = await get(client, page.main.links["Newer"])
        assert entries_of(page) == [*range(40, 10, -1)]
        assert "event=requested" in page.main.links["Newer"]

        page = await get(client, "/ui/journal?entry=50")
        assert 50 in entries_of(page) and entries_of(page)[0] == 60
        page = await get(client, page.main.links["Newer"])
        assert entries_of(page) == [*range(90, 60, -1)]
        page = await get(client, page.main.links["Newer"])
        assert entries_of(page) == [*range(100, 70, -1)] and page.main.all(hx_ext="sse, morph")

    browse(DashboardWorld(tmp_path), story)


def test_new_entries_come_by_themselves_where_they_fit(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.ledger.requested("one")
        world.ledger.transition(State.COLLAPSED, "two")
        shown = (await first_event(client, world, "/ui/live/journal?event=requested")).text
        assert "one" in shown and "two" not in shown
        assert (await client.get("/ui/live/journal?event=rain")).status_code == 400

    browse(DashboardWorld(tmp_path, control={"mode": "observe"}), story)
