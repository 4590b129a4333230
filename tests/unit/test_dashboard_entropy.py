"""The page Entropy: what its curves, marks, tables and file say, over any stretch of a long history."""

import csv
import gc
import io
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.dashboard.entropy import POINTS, ROWS
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.live import LiveWindow, MeasuredBy
from reheatd.entropy.series import Window
from reheatd.measures import PositionMean
from tests.long_history import COLLAPSED, fill
from tests.loop_probe import get as parts_of
from tests.loop_probe import watched_loop
from tests.unit.control_figures import entropy, window
from tests.unit.dashboard_support import Client, DashboardWorld, browse, get

END = 1_700_000_000.0
WINDOWS, VERSIONS = 4000, 40
LONG = 20_000
HOSTILE = "<script>alert('&')</script>"


def filled(folder: Path, *, windows: int = WINDOWS, versions: int = VERSIONS) -> DashboardWorld:
    world = DashboardWorld(folder)
    fill(world.db, world.series.key, windows=windows, versions=versions, end=END)
    return world


def live(source: str, by: MeasuredBy, mean: float, version: str = "policy-v0", **fields: Any) -> LiveWindow:
    positions = [PositionMean(position=position, tokens=9, mean=mean) for position in (0, 1, 2, 4)]
    return LiveWindow(
        version=version, source=source, measured_by=by, estimate=entropy(mean), by_position=positions, **fields
    )


async def chart(client: Client, query: str = "", path: str = "/ui/entropy.json") -> dict[str, Any]:
    answer = await client.get(f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_long_history_is_shown_with_its_versions_and_what_happened(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        shown = await chart(client)
        assert shown["unit"] == "nats per token" and len(shown["x"]) <= POINTS
        (line,) = shown["lines"]
        assert line["label"] == "probes"
        assert all(low < mean < high for low, mean, high in zip(line["low"], line["values"], line["high"], strict=True))
        assert min(line["values"]) < COLLAPSED, "dips stay"
        assert shown["x"][-1] == END
        labels = [span["label"] for span in shown["spans"]]
        assert labels == [f"policy-v{version}" for version in range(VERSIONS + 1)]
        ends = [span["end"] for span in shown["spans"]]
        assert ends[:-1] == [span["start"] for span in shown["spans"][1:]] and ends[-1] == END
        kinds = {mark["kind"] for mark in shown["marks"]}
        assert kinds == {"promoted", "collapsed", "job", "request"}
        assert {level["kind"] for level in shown["levels"]} == {"baseline", "collapsed", "warning"}

        page = await get(client, "/ui/entropy")
        happened, _ = page.main.all("table")[1:3]
        assert len(happened.all("tr")) == ROWS + 1
        assert "user" in happened.text and "ops" in happened.text
        assert f"policy-v{VERSIONS} by" in happened.all("tr")[1].text

    browse(filled(tmp_path), story)


def test_zooming_in_shows_more_of_a_shorter_time(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        start, end = END - 600 * 120, END - 300 * 120
        shown = await chart(client, f"start={start}&end={end}")
        assert len(shown["x"]) == 301, "every window of the stretch"
        assert shown["x"][0] == start and shown["x"][-1] == end
        assert all(start <= mark["x"] <= end for mark in shown["marks"]) and shown["marks"]
        assert shown["spans"][0]["start"] == start and shown["spans"][-1]["end"] == end

        page = await get(client, f"/ui/entropy?start={start}&end={end}")
        newest = page.main.all("table")[-1].all("tr")[1]
        assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end)) in newest.text
        older = await get(client, page.main.links["Older windows"])
        assert "Older windows" in older.main.links
        everything = await get(client, page.main.links["Show all times"])
        assert "Show all times" not in everything.main.links
        assert (await chart(client, f"start={END + 1}"))["x"] == []

    browse(filled(tmp_path), story)


def test_each_source_is_a_curve_for_each_way_of_measuring(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.series.append(window(0, "ok", 1.9), TailMoments())
        for made in (
            live("live", "tap", 1.1),
            live("live", "plug_in", 1.2),
            live("probe", "tap", 1.8),
            live("rollout", "monte_carlo", 0.7, "rl-1", step=5),
        ):
            world.live.append(made)

        async def lines(query: str) -> list[str]:
            return [line["label"] for line in (await chart(client, query))["lines"]]

        assert await lines("") == ["probes"]
        assert await lines("source=live") == ["clients, tap", "clients, plug in"]
        assert await lines("source=live&by=plug_in") == ["clients, plug in"]
        every = ["probes", "rollouts, monte carlo", "clients, tap", "clients, plug in", "probes, tap"]
        assert await lines("source=tap&source=live&source=rollout&source=probe") == every
        shown = await chart(client, "source=live&source=probe")
        assert len(shown["x"]) == 3 and shown["lines"][1]["values"].count(None) == 2

        page = await get(client, "/ui/entropy?source=live&source=rollout&by=monte_carlo&by=tap")
        checked = {box.attributes["value"] for box in page.main.all("input") if "checked" in box.attributes}
        assert checked == {"live", "rollout", "tap", "monte_carlo"}
        assert page.main.one("form").attributes["method"] == "get", "it works without JavaScript"
        (_, windows) = page.main.all("table")
        assert [row.all("td")[2].text for row in windows.all("tr")[1:]] == ["rl-1", "policy-v0"]
        assert windows.all("tr")[1].text.endswith(" 5")
        source = page.main.all("div", class_="chart")[0].attributes["data-src"]
        assert [line["label"] for line in (await client.get(source)).json()["lines"]] == [
            "rollouts, monte carlo",
            "clients, tap",
        ]

    browse(DashboardWorld(tmp_path), story)


def test_the_newest_windows_are_shown_by_position(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.live.append(live("live", "tap", 1.1))
        shown = await chart(client, "source=probe&source=live", "/ui/entropy/positions.json")
        assert shown["ticks"] == ["0", "1", "2–3", "4–7", "8–15", "16–31", "32–63", "64–127"]
        versions = [f"policy-v{version}, probes" for version in (VERSIONS, VERSIONS - 1, VERSIONS - 2)]
        assert [line["label"] for line in shown["lines"]] == [*versions, "policy-v0, clients, tap"]
        assert shown["lines"][0]["values"][0] > shown["lines"][0]["values"][-1]
        assert shown["lines"][3]["values"] == [1.1, 1.1, 1.1, 1.1, None, None, None, None]
        page = await get(client, "/ui/entropy?source=live")
        table = page.main.all("table")[0]
        assert [row.text for row in table.all("tr")[1:3]] == ["0 1.100", "1 1.100"]

    browse(filled(tmp_path), story)


def test_all_windows_can_be_downloaded_with_their_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.dashboard.stored_windows.ROWS_AT_ONCE", 3)

    async def story(client: Client, world: DashboardWorld) -> None:
        for number in range(7):
            world.series.append(window(number, "ok", 1.9).model_copy(update={"time": END + number}), TailMoments())
        with world.db:
            world.db.execute("INSERT INTO entropy_windows (time, version, key, window) VALUES (1, 0, 'key', '{')")
        world.live.append(live("rollout", "monte_carlo", 0.7, "rl-1"))
        answer = await client.get("/ui/entropy.csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert "entropy.csv" in answer.headers["content-disposition"]
        rows = [*csv.DictReader(io.StringIO(answer.text))]
        assert [row["version_or_job"] for row in rows] == [*(f"policy-v{number}" for number in range(7)), "rl-1"]
        assert rows[0]["time_utc"] == "2023-11-14T22:13:20.000Z"
        assert [float(rows[0][name]) for name in ("entropy_nats_per_token", "low_nats_per_token")] == pytest.approx(
            [1.9, 1.85]
        )
        assert (rows[0]["source"], rows[0]["measured_by"], rows[0]["verdict"]) == ("probe", "control_variate", "ok")
        assert (rows[-1]["source"], rows[-1]["measured_by"], rows[-1]["verdict"]) == ("rollout", "monte_carlo", "")

    browse(DashboardWorld(tmp_path), story)


def test_a_curve_is_sent_again_only_if_it_has_changed(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.series.append(window(0, "ok", 1.9), TailMoments())
        first = await client.get("/ui/entropy.json")
        known = {"if-none-match": first.headers["etag"]}
        again = await client.get("/ui/entropy.json", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        world.series.append(window(0, "warning", 1.1), TailMoments())
        changed = await client.get("/ui/entropy.json", headers=known)
        assert changed.status_code == 200 and changed.json()["lines"][0]["values"] == [1.9, 1.1]
        world.ledger.requested("somebody did something")
        marked = await client.get("/ui/entropy.json", headers={"if-none-match": changed.headers["etag"]})
        assert marked.json()["lines"][0]["values"] == [1.9, 1.1, None], "it happened after the last window"
        assert [mark["label"] for mark in marked.json()["marks"]] == ["somebody did something"]

    browse(DashboardWorld(tmp_path), story)


def test_a_journal_that_begins_late_leaves_the_versions_to_the_windows(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        for number, version in enumerate((0, 0, 3, 4)):
            taken = window(version, "ok", 1.9).model_copy(update={"time": END + 100 * number})
            world.series.append(taken, TailMoments())
        world.ledger.promoted(4, "policy-v4 is promoted", at=END + 250)
        shown = await chart(client)
        assert [(span["label"], span["start"] - END) for span in shown["spans"]] == [
            ("policy-v0", 0),
            ("policy-v3", 200),
            ("policy-v4", 250),
        ]

    browse(DashboardWorld(tmp_path), story)


def test_what_others_wrote_is_shown_as_text(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.series.append(window(0, "ok", 1.9), TailMoments())
        world.ledger.requested(f"{HOSTILE} imported")
        world.live.append(live("rollout", "tap", 1.0, HOSTILE))
        page = await get(client, "/ui/entropy?source=rollout")
        assert not page.main.all("script")
        assert page.main.text.count(HOSTILE) == 3, "in the journal, by position and among the windows"

    browse(DashboardWorld(tmp_path), story)


def test_a_policy_that_was_never_measured_has_a_page(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/ui/entropy")
        assert "No window has been measured yet" in page.main.text and "Nothing in this time." in page.main.text
        assert (await chart(client))["x"] == []
        assert (await client.get("/ui/entropy.csv")).text.count("\n") == 1

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("source=dreams", "source = 'dreams' is none of probe, rollout, live, tap"),
        ("by=guess", "by = 'guess' is none of tap,"),
        ("period=7", "period = '7' is none of 3600,"),
        ("start=noon", "start = 'noon' is no time in seconds since the epoch"),
        ("end=nan", "end = 'nan' is no time"),
        ("end=1e300", "end = '1e300' is no time"),
        ("start=5&end=4", "start = 5 is after end = 4"),
    ],
)
def test_a_view_that_cannot_be_is_refused_in_place(tmp_path: Path, query: str, says: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, f"/ui/entropy?{query}", status=400)
        assert says in page.problem
        for path in ("/ui/entropy.json", "/ui/entropy/positions.json"):
            answer: httpx.Response = await client.get(f"{path}?{query}", headers={"accept": "*/*"})
            assert answer.status_code == 400
            assert says in answer.json()["error"]["message"] and answer.json()["error"]["param"] == query.split("=")[0]

    browse(DashboardWorld(tmp_path), story)


def test_periods_end_now(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        for age_s in (7000.0, 50.0):
            world.series.append(window(0, "ok", 1.9).model_copy(update={"time": time.time() - age_s}), TailMoments())
        assert len((await chart(client, "period=86400"))["x"]) == 2
        assert len((await chart(client, "period=3600"))["x"]) == 1
        page = await get(client, "/ui/entropy?period=3600")
        assert len(page.main.all("table")[-1].all("tr")) == 2

    browse(DashboardWorld(tmp_path), story)


def test_a_long_series_stops_no_stream(tmp_path: Path) -> None:
    """No turn of the loop takes as long as reading one in fifty of the windows does."""

    async def story(client: Client, world: DashboardWorld) -> None:
        app = world.app()
        for path in ("/ui/entropy", "/ui/entropy.json", "/ui/entropy/positions.json"):
            await parts_of(app, path)  # what only the first answer needs is read
        (text,) = world.db.execute("SELECT window FROM entropy_windows WHERE id = 1").fetchone()
        started = time.thread_time()
        for _ in range(LONG // 50):
            Window.model_validate_json(text)
        most_s = time.thread_time() - started
        for path in ("/ui/entropy.json?source=live", "/ui/entropy?source=live", "/ui/entropy.csv"):
            gc.collect()
            async with watched_loop() as probe:
                parts = await parts_of(app, path)
            assert max(map(len, parts)) < 200_000, "a long answer is sent in parts"
            assert probe.cpu_seconds < most_s, path

    browse(filled(tmp_path, windows=LONG, versions=200), story)
