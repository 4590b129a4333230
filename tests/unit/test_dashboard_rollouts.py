"""The page of a job's rollouts: prompts, tokens in colours, rewards with their words, and filters."""

from pathlib import Path

import pytest

from reheatd.dashboard.rollouts import coloured
from reheatd.jobs.contracts import RLRequest
from reheatd.jobs.rollouts import RewardPart, RolloutRecorder, RolloutRow, TokenValues
from tests.unit.dashboard_support import Client, DashboardWorld, browse, get, parse
from tests.unit.report_support import rollout_row

EVIL = "</div><script>alert(1)</script>"


def told(step: int, reward: float = 1.0) -> RolloutRow:
    """A rollout with all that is kept of one, and with markup everywhere."""
    return rollout_row(step, reward).model_copy(
        update={
            "messages": [{"role": "user", "content": f"prompt {EVIL}"}, {"role": "user", "content": [{"text": EVIL}]}],
            "completion": f"It is{EVIL}4",
            "rewards": [
                RewardPart(name="numeric", weight=1.0, value=reward, said=f"it states {EVIL}"),
                RewardPart(name="polite", weight=0.25, value=0.5),
            ],
            "by_token": TokenValues(
                texts=["It is", "", EVIL, "4"], logprobs=[0.0, -0.5, -2.25, -0.06], entropies=[0.0, 3.5, 0.3, 1.1]
            ),
        }
    )


def test_a_rollout_is_shown_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.controller.submit(RLRequest(steps=3))
        spec = await world.until_submitted()
        url = f"/ui/jobs/{spec.job_id}/rollouts"
        assert "No rollout of this job is kept yet." in (await get(client, url)).main.text
        recorder = RolloutRecorder(spec.rollouts_file, steps=3, keep=100)
        recorder.record([told(0)])
        recorder.record([told(1, 0.0), rollout_row(1, 0.5)])
        page = await get(client, url)
        assert not [script for script in page.all("script") if "src" not in script.attributes]
        assert [part.attributes["id"] for part in page.main.all("section")] == ["r2", "r3", "r1"]
        shown = page.main.one("section", id="r1")
        assert f"prompt {EVIL}" in shown.text and "reward 1 advantage +0.5" in shown.text
        rewards = [row.text for row in shown.all("tr")[1:]]
        assert rewards == [f"numeric 1 1 it states {EVIL}", "polite 0.25 0.5 –"]
        tokens = shown.one(class_="tokens")
        assert tokens.text == f"It is{EVIL}4"
        assert [(span.attributes["class"], span.attributes["title"]) for span in tokens.all("span")] == [
            ("heat-0", "log p 0.000, entropy 0.000"),
            ("heat-4", "log p -2.250, entropy 0.300"),
            ("heat-6", "log p -0.060, entropy 1.100"),
        ]
        assert "[bold]4" in page.main.one("section", id="r3").text, "of an earlier version, without tokens"
        assert page.main.one("section", id="r2").links["to the next"] == "#r3"
        assert "cut off" in page.main.one("section", id="r2").text
        page = await get(client, f"{url}?colour=logprob")
        spans = page.main.one("section", id="r1").one(class_="tokens").all("span")
        assert [span.attributes["class"] for span in spans] == ["heat-0", "heat-7", "heat-2"]

    browse(DashboardWorld(tmp_path), story)


def test_rollouts_are_filtered_and_come_in_pages(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.controller.submit(RLRequest(steps=5))
        spec = await world.until_submitted()
        recorder = RolloutRecorder(spec.rollouts_file, steps=5, keep=1000)
        for step in range(5):
            recorder.record([told(step, number / 10) for number in range(11)])
        url = f"/ui/jobs/{spec.job_id}/rollouts"
        page = await get(client, f"{url}?step=&least=&most=&truncated=")
        assert len(page.main.all("section")) == 20 and "55 of 55 rollouts" in page.main.text
        assert "page 1 of 3" in page.main.text and {link.text for link in page.main.all("a", rel="next")} == {"Older"}
        page = await get(client, page.main.all("a", rel="next")[0].attributes["href"])
        page = await get(client, page.main.all("a", rel="next")[0].attributes["href"])
        assert len(page.main.all("section")) == 15 and not page.main.all("a", rel="next")
        page = await get(client, f"{url}?step=2&least=0.5&most=0.75&truncated=yes")
        assert "3 of 55 rollouts" in page.main.text and len(page.main.all("section")) == 3
        assert page.main.one("input", name="least").attributes["value"] == "0.5"
        assert (
            "None of the 55 rollouts that are kept is like this."
            in (await get(client, f"{url}?step=0&truncated=yes")).main.text
        )
        assert "There is no page 9." in (await get(client, f"{url}?page=9")).main.text

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("least=much", "least = 'much' is not a number"),
        ("most=nan", "most = 'nan' is not a number"),
        ("step=-1", "step = '-1' is not a whole number from 0 up"),
        ("page=0", "page = '0' is not a whole number from 1 up"),
        ("truncated=maybe", "truncated = 'maybe' is none of yes, no"),
        ("colour=red", "colour = 'red' is none of entropy, logprob"),
    ],
)
def test_what_cannot_be_filtered_by_is_said_in_place(tmp_path: Path, query: str, says: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job = world.controller.submit(RLRequest())
        page = await get(client, f"/ui/jobs/{job.job_id}/rollouts?{query}", 400)
        assert page.problem == says and page.main.one("form")

    browse(DashboardWorld(tmp_path), story)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job = world.controller.submit(RLRequest())
        spec = await world.until_submitted()
        spec.rollouts_file.write_text("{}\n")
        page = await get(client, f"/ui/jobs/{job.job_id}/rollouts", 500)
        assert "line 1 is damaged" in page.problem

    browse(DashboardWorld(tmp_path), story)


def test_of_a_long_completion_the_beginning_and_the_end_are_coloured() -> None:
    tokens = TokenValues(texts=["a", "", "é", "b"], logprobs=[-9.0, 0.0, 0.0, -0.1], left_out=12)
    row = rollout_row(0).model_copy(update={"by_token": tokens})
    assert [parse(part).text for part in coloured(row, "logprob")] == ["a", "éb"]
    assert all("heat" not in part for part in coloured(row, "entropy")), "it is not known"
    assert coloured(rollout_row(0), "logprob") == []
