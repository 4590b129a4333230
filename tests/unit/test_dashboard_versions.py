"""The pages of versions: the lineage, one version, its report's files and its export."""

import io
import tarfile
from pathlib import Path

import pytest

from reheatd.errors import DeliveryError
from reheatd.jobs.contracts import JobStatus, ReheatRequest
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import finish_one
from tests.unit.dashboard_support import Client, DashboardWorld, Element, Page, browse, get
from tests.unit.report_support import job_report, passing


def row_of(page: Page, name: str) -> Element:
    (row,) = [row for row in page.main.all("tr") if row.all("th") and name in row.all("th")[0].links]
    return row


def report_folder(folder: Path) -> Path:
    report = folder / "report-source"
    report.mkdir()
    (report / "report.json").write_text(job_report().model_dump_json())
    (report / "report.md").write_text("# <b>what</b> changed")
    (report / "token_kl.png").write_bytes(b"\x89PNG kl")
    (report / "new plot.png").write_bytes(b"\x89PNG new")
    (report / "curves.jsonl").write_text("{}")
    return report


async def no_lineage_yet(client: Client, world: DashboardWorld) -> None:
    page = await get(client, "/ui/versions")
    row = row_of(page, "policy-v0")
    assert "served" in row.text and "base model" in row.text
    assert "1 version" in page.main.text and not page.main.all("select")


def test_the_base_alone_is_a_list_too(tmp_path: Path) -> None:
    browse(DashboardWorld(tmp_path), no_lineage_yet)


def test_the_list_has_each_versions_figures_and_where_it_came_from(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job_id = await finish_one(world)
        await world.publish(
            "a", parent=1, kind="rl", entropy_after=entropy(1.25), accuracy_after=passing(24, 0.82), job_id="rl-gone"
        )
        page = await get(client, "/ui/versions")
        assert [row.one("th").links for row in page.main.all("tr")[1:]] == [
            {f"policy-v{version}": f"/ui/versions/{version}"} for version in (2, 1, 0)
        ]
        served = row_of(page, "policy-v1")
        assert "served" in served.attributes["class"] and served.links[job_id] == f"/ui/jobs/{job_id}"
        assert "reheat, from policy-v0" in served.text and "1.700 [1.650, 1.750]" in served.text
        assert "3 passed" in served.text and "failed" not in served.text and "4.8 kB" in served.text
        other = row_of(page, "policy-v2")
        assert "candidate" in other.text and "rl, from policy-v1" in other.text
        assert "rl-gone" in other.text and "rl-gone" not in other.links, "there is no page of that job"
        assert "1.250 [1.200, 1.300]" in other.text and "50.0% avg@1 [36.4%, 63.6%]" in other.text
        assert "82.0% @4 [72.0%, 92.0%]" in other.text
        assert page.main.links["Roll back to policy-v0"] == "/ui/actions/rollback"
        form = page.main.one("form", action="/ui/compare")
        assert [select.attributes["name"] for select in form.all("select")] == ["a", "b"]
        assert [option.text for option in form.all("option") if "selected" in option.attributes] == [
            "policy-v0, base",
            "policy-v1, served",
        ]

    browse(DashboardWorld(tmp_path), story)


def test_a_gate_that_was_missed_says_why(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job = world.controller.submit(ReheatRequest(tau=1.5))
        world.swaps.failures.append(DeliveryError("the answers are not <the> trainer's"))
        await world.train(await world.until_submitted())
        await world.until_status(job.job_id, JobStatus.REJECTED)
        row = row_of(await get(client, "/ui/versions"), "policy-v1")
        assert "delivery failed the answers are not <the> trainer's" in row.text
        assert row.one("span", "rejected").text == "rejected"
        page = await get(client, "/ui/versions/1")
        assert "delivery failed the answers are not <the> trainer's" in page.main.text
        assert page.main.links["Promote"] == "/ui/actions/promote?version=1"
        assert page.main.links["Delete"] == "/ui/actions/delete?version=1"

    browse(DashboardWorld(tmp_path), story)


def test_the_drawing_joins_versions_to_their_parents(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        for number, parent in enumerate((0, 1, 1, 2, 9), 1):
            await world.publish(str(number), parent=parent)
        page = await get(client, "/ui/versions")
        drawn = {row.one("th").all("a")[0].text: row.one("svg", "lanes") for row in page.main.all("tr")[1:]}
        columns = {name: (int(svg.one("circle").attributes["cx"]) - 7) // 14 for name, svg in drawn.items()}
        assert columns == {
            "policy-v5": 0,
            "policy-v4": 0,
            "policy-v3": 1,
            "policy-v2": 0,
            "policy-v1": 1,
            "policy-v0": 1,
        }
        assert not drawn["policy-v5"].all("line"), "its parent does not exist"
        assert "from policy-v9, which is deleted" in row_of(page, "policy-v5").text

    browse(DashboardWorld(tmp_path), story)


def test_many_versions_come_in_pages(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        with world.db:
            world.db.executemany(
                "INSERT INTO adapter_versions VALUES (?, ?, 'retired')",
                [(number, f"policy-v{number}-000000000000") for number in range(1, 120)],
            )
        seen, path = [], "/ui/versions"
        while True:
            page = await get(client, path)
            rows = page.main.all("tr")[1:]
            assert len(rows) <= 50
            seen += [row.one("th").all("a")[0].text for row in rows]
            if "Older" not in page.main.links:
                break
            path = page.main.links["Older"]
        assert seen == [f"policy-v{number}" for number in range(119, -1, -1)]
        assert page.main.links["Newer"] == "/ui/versions?before=70"
        assert (await get(client, page.main.links["Newer"])).main.links["Newer"] == "/ui/versions"
        assert "Newer" not in (await get(client, "/ui/versions")).main.links
        assert "before = 'x' is not" in (await get(client, "/ui/versions?before=x", 400)).problem

    browse(DashboardWorld(tmp_path), story)


def test_a_page_per_version_has_its_report_its_options_and_its_actions(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        fields = {
            "parent": 0,
            "tau": 1.5,
            "spec": {"job_id": "reheat-1", "lora": {"rank": 16}, "task": {"path": "<b>tasks</b>"}, "seed": 7},
            "entropy_before": entropy(0.8),
            "entropy_after": entropy(1.6),
            "accuracy_before": passing(20, 0.71),
            "accuracy_after": passing(21, 0.82),
            "accuracy_base": accuracy(30),
        }
        await world.publish("a", report_folder(tmp_path), **fields)
        await world.publish("b", parent=1)
        page = await get(client, "/ui/versions/policy-v1")
        assert page.title.startswith("policy-v1 ·") and page.one("a", aria_current="page").text == "Versions"
        text = page.main.text
        assert "0.800 [0.750, 0.850] 1.600 [1.550, 1.650]" in text and "71.0% [61.0%, 81.0%] 82.0%" in text
        assert "KL(before || after) 0.123" in text and "93.0%, 90.0%" in text and "0.98760, 0.98760 layer 2" in text
        assert "lora.rank 16" in text and "task.path <b>tasks</b>" in text and "job_id" not in text
        assert page.main.links["policy-v2"] == "/ui/versions/2", "continued by"
        assert "Its delivery has not been proved" in text
        assert page.main.links["Export"] == "/ui/versions/1/export"
        assert page.main.links["Compare with policy-v0"] == "/ui/compare?a=0&b=1"
        assert page.main.links["Ask it"] == "/ui/chat?a=1"
        images = {image.attributes["alt"]: image.attributes["src"] for image in page.main.all("img")}
        assert list(images) == ["Plot: KL of each token from the parent", "Plot: new plot.png"]
        plot = await client.get(images["Plot: new plot.png"])
        assert (plot.content, plot.headers["content-type"]) == (b"\x89PNG new", "image/png")
        assert plot.headers["x-content-type-options"] == "nosniff"
        text_file = await client.get("/ui/versions/1/report/report.md")
        assert text_file.headers["content-type"] == "text/plain; charset=utf-8"

    browse(DashboardWorld(tmp_path), story)


def test_only_files_of_the_report_are_served(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await world.publish("a", report_folder(tmp_path))
        secret = tmp_path / "secret.png"
        secret.write_bytes(b"secret")
        (world.store.path(1) / "report" / "link.png").symlink_to(secret)
        (world.store.path(1) / "report" / "folder.png").mkdir()
        names = (
            "link.png",
            "folder.png",
            "curves.jsonl",
            "nothing.png",
            "..%2flineage.json",
            "../lineage.json",
            "%00.png",
        )
        for name in names:
            answer = await client.get(f"/ui/versions/1/report/{name}")
            assert answer.status_code == 404, name
        page = await get(client, "/ui/versions/1")
        assert not [image for image in page.main.all("img") if "link" in image.attributes["src"]]
        for version in (0, 2):
            assert (await client.get(f"/ui/versions/{version}/report/report.md")).status_code == 404

    browse(DashboardWorld(tmp_path), story)


def test_a_report_that_cannot_be_read_is_said_in_place(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await world.publish("a", report_folder(tmp_path))
        file = world.store.path(1) / "report" / "report.json"
        file.write_text('{"format": 3, "job_id": 7}')
        page = await get(client, "/ui/versions/1")
        assert "cannot be read as a report" in page.problem and "policy-v1" in page.one("h1").text
        file.write_text('{"format": 1}')
        page = await get(client, "/ui/versions/1")
        assert "An earlier reheatd wrote it" in page.main.text and page.main.all("img")

    browse(DashboardWorld(tmp_path), story)


def test_a_version_whose_files_are_gone_can_only_be_deleted(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await world.publish("a")
        (world.store.path(1) / "lineage.json").write_text("{")
        page = await get(client, "/ui/versions/1")
        assert "gone or damaged" in page.problem
        assert "Delete" in page.main.links and "Promote" not in page.main.links and "Export" not in page.main.links
        assert "lost" in row_of(await get(client, "/ui/versions"), "policy-v1").text

    browse(DashboardWorld(tmp_path), story)


def test_the_base_and_the_served_version_can_not_be_deleted(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await finish_one(world)
        page = await get(client, "/ui/versions/1")
        assert "Delete" not in page.main.links and "Promote" not in page.main.links
        assert page.main.links["Roll back to policy-v0"] == "/ui/actions/rollback"
        page = await get(client, "/ui/versions/base")
        assert "Delete" not in page.main.links and "Export" not in page.main.links
        assert page.main.links["Promote"] == "/ui/actions/promote?version=0"

    browse(DashboardWorld(tmp_path), story)


def test_an_export_is_a_download_of_the_tar_stream(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await world.publish("a")
        answer = await client.get("/ui/versions/1/export")
        assert answer.headers["content-disposition"] == 'attachment; filename="policy-v1.tar"'
        assert answer.headers["content-type"] == "application/x-tar"
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            assert archive.getnames() == ["adapter_config.json", "lineage.json", "adapter_model.safetensors"]
        assert "base model, which has no adapter" in (await get(client, "/ui/versions/0/export", 409)).problem
        (world.store.path(1) / "adapter_model.safetensors").write_text("other")
        assert "are not those that were published" in (await get(client, "/ui/versions/1/export", 400)).problem

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/ui/versions/9", 404, "version 9 does not exist"),
        ("/ui/versions/<i>", 400, "'<i>' is not a version"),
        ("/ui/versions/99999999999999999999", 400, "is not a version"),
        ("/ui/versions/9/export", 404, "version 9 does not exist"),
        ("/ui/versions/9/report/report.md", 404, "version 9 does not exist"),
    ],
)
def test_a_version_that_does_not_exist_is_said_on_a_page(tmp_path: Path, path: str, status: int, says: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        assert says in (await get(client, path, status)).problem

    browse(DashboardWorld(tmp_path), story)
