"""The dashboard of a daemon with a real engine, broker and worker: a collapse is seen, and every button does its work.

All tests share one daemon. Each brings about by itself what it needs.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from cli.demo import COLLAPSE
from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from tests.browser.accessibility import faults
from tests.browser.conftest import Open
from tests.browser.pages import PAGES, SCHEMES, WIDTHS, Shown, drawn
from tests.daemon import Daemon, running
from tests.integration.serving import trainer_proof
from tests.random_adapter import random_adapter
from tests.waiting import HANGS_S, wait_until

API = "/reheatd/v1"
RANDOM = 1
"""A version that nobody has trained; it is not promoted at first."""
REWARD = '''
def reward(completion: str, answer: str) -> float:
    """Share of ASCII letters: a sampled completion always has some and never only those."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)
'''

expect.set_options(timeout=1000 * HANGS_S)


def publish_random_version(folder: Path, model: Path) -> None:
    with closing(connect(folder / "data" / "reheatd.sqlite3")) as db:
        store = AdapterStore(folder / "data" / "adapters", db)
        adapter = random_adapter(folder / "adapter", model)
        proof = trainer_proof(model, adapter, prompts=2, tokens=8)
        asyncio.run(store.publish(adapter, parent=0, base_model="tiny", base_digest="", kind="imported", proof=proof))


@pytest.fixture(scope="module")
def daemon(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that asks before it does anything about a collapse."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "letters.py").write_text(REWARD)
    problems = [{"prompt": f"Write the word number {number}.", "answer": "letters"} for number in range(80)]
    (folder / "task.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    tables: dict[str, dict[str, Any]] = {
        "entropy": {"probe_count": 8, "max_tokens": 32},
        "task": {"path": str(folder / "task.jsonl"), "reward": "letters:reward", "eval_count": 8, "eval_samples": 2},
        "control": {"mode": "approve", "cooldown_s": 0.0},
        "gate": {"accuracy_tolerance": 1.0, "entropy_tolerance": 0.5, "no_evidence": "pass"},
        "workers": {"report_rollouts": 4},
        "reheat": {"prompts_per_step": 8, "learning_rate": 5e-4, "max_tokens": 32},
        "rl": {"steps": 2, "max_tokens": 16},
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(folder), prepend=":")
        with ThreadPoolExecutor(1) as writer:  # a browser's driver may keep this thread's event loop
            writer.submit(publish_random_version, folder, tiny_policy).result()
        with running(folder, tiny_policy, **tables) as started:
            wait_until(lambda: started.http.get(f"{API}/entropy").json()["windows"])
            yield started


def ask(daemon: Daemon, path: str) -> Any:
    answer = daemon.http.get(f"{API}{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def promoted(daemon: Daemon) -> int:
    return ask(daemon, "/status")["promoted"]["version"]


def promote(daemon: Daemon, version: int) -> None:
    if promoted(daemon) != version:
        answer = daemon.http.post(f"{API}/adapters/{version}/promote")
        assert answer.status_code == 200, answer.text


def jobs(daemon: Daemon, **fields: str) -> list[dict[str, Any]]:
    """The jobs with these fields, the newest first."""
    listed = ask(daemon, "/jobs")["jobs"]
    found = [job for job in listed if all(job[name] == value for name, value in fields.items())]
    return sorted(found, key=lambda job: -job["created_at"])


def collapsing_job(daemon: Daemon) -> dict[str, Any]:
    """The job that collapses the policy, which is started if there is none."""
    found = jobs(daemon, trigger="manual", kind="reheat")
    for job in found:
        if job["request"].get("tau") == COLLAPSE.tau:
            return job
    promote(daemon, 0)
    answer = daemon.http.post(f"{API}/jobs", json=COLLAPSE.model_dump(mode="json"))
    assert answer.status_code == 202, answer.text
    return answer.json()


def over(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """The job, once it has ended; as long as it goes on, it may take any time."""
    while (job := ask(daemon, f"/jobs/{job_id}"))["finished_at"] is None:
        seen = progress(job)
        wait_until(lambda seen=seen: progress(ask(daemon, f"/jobs/{job_id}")) != seen)
    return job


def progress(job: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(job[name] for name in ("status", "phase", "step", "done"))


def collapse(daemon: Daemon) -> int:
    """Makes the policy collapse, and waits until that is noticed; the collapsed version."""
    job_id = collapsing_job(daemon)["job_id"]
    job = over(daemon, job_id)
    assert job["status"] == "succeeded", job
    promote(daemon, job["version"])
    wait_until(lambda: ask(daemon, "/status")["verdict"] == "collapsed" or measure(daemon))
    return job["version"]


def measure(daemon: Daemon) -> None:
    assert daemon.http.post(f"{API}/entropy/measure").status_code == 200


def confirm(page: Page, button: str) -> None:
    """Presses the button on the page that says what will happen."""
    expect(page.get_by_role("heading", level=1)).not_to_have_text("")
    page.get_by_role("button", name=button, exact=True).click()


def test_a_collapse_is_seen_while_it_happens_and_answered_from_the_pages(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    promote(daemon, 0)
    page.goto("/")
    drawn(page, 1)
    expect(page.locator(".verdict")).to_contain_text("policy-v0")

    job_id = collapsing_job(daemon)["job_id"]
    if ask(daemon, f"/jobs/{job_id}")["finished_at"] is None:
        expect(page.get_by_role("progressbar", name=f"Steps of {job_id}")).to_be_visible()
    version = collapse(daemon)
    expect(page.locator(".verdict .badge")).to_have_text("collapsed")
    expect(page.locator(".sentence")).to_contain_text(f"policy-v{version}: ")
    expect(page.locator(".log")).to_contain_text("collapsed: entropy of")

    waiting = wait_until(lambda: jobs(daemon, trigger="collapse", status="awaiting_approval"))[0]["job_id"]
    expect(page.get_by_role("link", name=waiting).first).to_be_visible()
    page.goto(f"/ui/actions/approve?job={waiting}")
    expect(page.get_by_role("listitem")).to_contain_text(f"{waiting} (reheat, collapse) is queued")
    confirm(page, "Approve")
    expect(page.locator(".notice")).to_have_text(f"{waiting} is approved.")
    wait_until(lambda: ask(daemon, f"/jobs/{waiting}")["status"] != "awaiting_approval")

    page.goto(f"/ui/actions/cancel?job={waiting}")
    confirm(page, "Cancel the job")
    expect(page.locator(".notice")).to_have_text(f"{waiting} is being cancelled.")
    assert over(daemon, waiting)["status"] in ("cancelled", "succeeded")

    page.goto("/ui/entropy")
    drawn(page, 2)
    happened = page.get_by_role("region", name="What happened")
    for what in (f"policy-v{version} by {job_id} is promoted", "collapsed: entropy of", f"{waiting} approved"):
        expect(happened.get_by_text(what).first).to_be_visible()
    expect(happened.get_by_role("row").filter(has_text=f"{waiting} cancelled").filter(has_text="local")).to_be_visible()
    expect(page.get_by_role("region", name="Windows of the probes")).to_contain_text("collapsed")


def test_a_version_is_promoted_and_rolled_back(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    promote(daemon, 0)
    page.goto(f"/ui/actions/promote?version={RANDOM}")
    expect(page.get_by_role("main")).to_contain_text("`policy` will mean policy-v1 instead of policy-v0.")
    confirm(page, "Promote policy-v1")
    expect(page.locator(".notice")).to_have_text(re.compile(r"policy-v1 is served, after .* s\."))
    assert promoted(daemon) == RANDOM

    page.goto("/")
    page.get_by_role("link", name="Roll back to policy-v0").click()
    confirm(page, "Roll back")
    expect(page.locator(".notice")).to_contain_text("policy-v0 is served again")
    assert promoted(daemon) == 0
    page.reload()
    expect(page.locator(".notice")).to_have_count(0)


def test_a_window_is_measured_at_the_press_of_a_button(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    before = len(ask(daemon, "/entropy?last=1000")["windows"])
    page.goto("/")
    page.get_by_role("link", name="Measure now").click()
    confirm(page, "Measure")
    expect(page.locator(".notice")).to_contain_text("A window is measured now")
    wait_until(lambda: len(ask(daemon, "/entropy?last=1000")["windows"]) > before)


def test_a_reheat_is_refused_in_place_and_then_runs(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    promote(daemon, 0)
    page.goto("/")
    page.get_by_role("link", name="Reheat", exact=True).click()
    page.get_by_label("Temperature of the teacher").fill("hot")
    confirm(page, "Reheat")
    expect(page.get_by_role("alert")).to_have_text("tau = 'hot' is no number")
    field = page.get_by_label("Temperature of the teacher")
    expect(field).to_have_value("hot")
    field.fill("0.9")
    page.get_by_label("Largest number of steps").fill("1")
    confirm(page, "Reheat")
    expect(page.locator(".notice")).to_have_text(re.compile(r"reheat-\w+ is queued\."))
    job = jobs(daemon, kind="reheat", trigger="manual")[0]
    assert (job["request"]["tau"], job["request"]["steps"]) == (0.9, 1)
    over(daemon, job["job_id"])


def test_resuming_says_what_was_paused(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    page.goto("/ui/actions/resume")
    confirm(page, "Resume")
    expect(page.locator(".notice")).to_have_text("Resumed: nothing was paused.")


def test_a_version_is_looked_at_compared_and_served_from_its_page(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    promote(daemon, 0)
    page.goto("/ui/versions")
    page.get_by_role("region", name="Lineage").get_by_role("link", name=f"policy-v{RANDOM}").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    assert Path(download.value.path()).stat().st_size > 1000
    page.get_by_role("link", name="Compare with policy-v0").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare policy-v0 and policy-v1")
    page.get_by_label("Prompt").fill("Which word comes first?")
    page.get_by_label("and as many probes").fill("1")
    page.get_by_label("Most tokens").fill("8")
    page.get_by_role("button", name="Ask both").click()
    answers = page.locator("#answers .answer")
    expect(answers).to_have_count(4)
    expect(answers.locator("p.tokens")).to_have_count(4)
    expect(page.get_by_text("Which word comes first?").first).to_be_visible()
    page.goto(f"/ui/versions/{RANDOM}")
    page.get_by_role("link", name="Promote", exact=True).click()
    confirm(page, "Promote policy-v1")
    expect(page.locator(".served")).to_contain_text("policy-v1")
    assert promoted(daemon) == RANDOM
    page.goto("/ui/versions/999")
    expect(page.get_by_role("alert")).to_contain_text("999")


@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without-scripts"])
def test_two_versions_are_asked_side_by_side(daemon: Daemon, window: Open, scripts: bool) -> None:
    page = window(daemon.url, java_script_enabled=scripts)
    page.goto(f"/ui/chat?a=0&b={RANDOM}")
    for turn, message in enumerate(("Say something.", "And now something else.")):
        page.get_by_label("Most tokens").fill("8")
        page.get_by_label("Message").fill(message)
        page.get_by_role("button", name="Ask").click()
        newest = page.get_by_role("region", name="Newest turn")
        expect(newest).to_contain_text(message)
        expect(newest.locator(".answer")).to_have_count(2)
        expect(page.get_by_role("region", name="Earlier turn")).to_have_count(turn)
    token = page.locator(".tokens span").first
    expect(token).to_have_class(re.compile(r"heat-\d"))
    expect(token).to_have_attribute("title", re.compile("nats"))
    page.goto("/ui/chat?a=999")
    expect(page.get_by_role("main")).to_contain_text("999")


def test_a_job_is_followed_and_its_rollouts_are_read(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    promote(daemon, 0)
    job_id = daemon.http.post(f"{API}/jobs", json={"kind": "rl", "steps": 2}).json()["job_id"]
    page.goto("/ui/jobs")
    page.get_by_role("link", name=job_id).click()
    state = page.get_by_role("region", name="State of the job")
    expect(state).to_contain_text("rl, manual")
    assert over(daemon, job_id)["error"] is None
    expect(state).to_contain_text("2 of 2")  # without a reload
    page.reload()
    ticks = page.get_by_role("group", name="Metrics").get_by_role("checkbox")
    for index in range(ticks.count()):
        ticks.nth(index).set_checked(index < 2)
    page.get_by_role("button", name="Show").click()
    drawn(page, 1)
    expect(page.locator(".chart .u-legend .u-series:not(.edge)")).to_have_count(3)  # with the steps
    page.get_by_role("link", name="Read its rollouts").click()
    rollout = page.locator(".rollout").first
    expect(rollout.get_by_role("region", name="Rewards of rollout")).to_contain_text("letters:reward")
    expect(rollout.locator(".tokens span").first).to_have_attribute("title", re.compile("nats"))
    page.get_by_label("Colour by").select_option(index=1)
    page.wait_for_url("**colour=**")
    expect(page.locator(".rollout .tokens span").first).to_be_visible()
    page.get_by_label("Step").fill("1")
    page.get_by_label("Step").press("Enter")
    expect(page.locator("#found")).to_contain_text("of the steps 1 to 1")
    page.goto("/ui/jobs/rl-00000000")
    expect(page.get_by_role("alert")).to_contain_text("rl-00000000")


def test_the_journal_is_filtered_and_the_configuration_says_where_values_come_from(
    daemon: Daemon, window: Open
) -> None:
    page = window(daemon.url)
    page.goto("/ui/journal")
    entries = page.get_by_role("region", name="Entries of the journal")
    page.get_by_label("Text").fill("promoted by request")
    page.get_by_label("Text").press("Enter")
    page.wait_for_url("**text=promoted**")
    promote(daemon, 0)
    promote(daemon, RANDOM)
    expect(entries).to_contain_text("policy-v1 promoted by request")  # as it happens
    entries.get_by_role("link").first.click()
    expect(page.locator("tr:target")).to_contain_text("promoted by request")
    page.goto("/ui/configuration")
    page.get_by_label("Only what differs").check()
    page.wait_for_url("**changed=1**")
    expect(page.get_by_role("region", name="Settings of control")).to_contain_text("cooldown_s")
    expect(page.get_by_role("region", name="Settings of control")).to_contain_text("reheatd.toml")


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
def test_everybody_can_use_every_page(daemon: Daemon, window: Open, shown: Shown) -> None:
    job = collapsing_job(daemon)
    path = shown.path.format(job=job["job_id"], version=collapse(daemon), other=RANDOM)
    for scheme in SCHEMES:
        for width in WIDTHS.values():
            page = window(daemon.url, color_scheme=scheme, viewport={"width": width, "height": 900})
            page.goto(path)
            drawn(page, shown.curves)
            assert not faults(page), (shown.name, scheme, width)
            wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, f"{shown.name} is {wider} pixels wider than a window of {width}"


def test_the_page_says_that_the_daemon_is_away(daemon: Daemon, window: Open) -> None:
    page = window(daemon.url)
    page.goto("/")
    expect(page.get_by_text("The daemon does not answer.")).to_be_hidden()
    page.route("**/ui/live/now", lambda route: route.abort())
    page.reload()
    expect(page.get_by_text("The daemon does not answer.")).to_be_visible()
    page.unroute("**/ui/live/now")
    expect(page.get_by_text("The daemon does not answer.")).to_be_hidden()
