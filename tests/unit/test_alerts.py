"""Alerts: what is worth one, what each webhook gets, and that none is lost."""

import asyncio
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from reheatd.alerts.alert import Alert, Watcher
from reheatd.alerts.alerter import Alerter
from reheatd.alerts.hooks import SIGNATURE_HEADER, hooks_of, pagerduty, signed, slack
from reheatd.config import Settings, load_settings
from reheatd.config_alerts import AlertsSection
from reheatd.control.ledger import Ledger
from reheatd.control.states import State
from reheatd.database import connect
from reheatd.errors import ConfigError
from reheatd.jobs.contracts import JobStatus, ReheatRequest
from tests.waiting import until

COLLAPSE = "entropy of policy-v1 is 0.105 [0.092, 0.117] nats per token, 5% of the baseline"


def ledger_in(folder: Path) -> Ledger:
    return Ledger(connect(folder / "reheatd.sqlite3"))


def alerts_of(ledger: Ledger) -> list[Alert]:
    watcher = Watcher(None, policy="tiny", daemon="http://daemon")
    return [
        alert
        for entry in ledger.entries(100)
        for alert in watcher.read(entry, None if entry.job_id is None else ledger.jobs.status(entry.job_id))
    ]


def an_alert(**fields: Any) -> Alert:
    given = {"id": 7, "time": 1.5e9, "kind": "verdict", "severity": "critical", "summary": COLLAPSE, **fields}
    return Alert(policy="tiny", state=State.COLLAPSED, daemon="http://daemon", **given)


def collapse(ledger: Ledger) -> None:
    ledger.transition(State.COLLAPSED, COLLAPSE, version=1)


def recover(ledger: Ledger) -> None:
    ledger.transition(State.SERVING, "policy-v0 was promoted by request", version=0)


def test_a_collapse_and_its_end_are_told_once(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    collapse(ledger)
    record = ledger.create(ReheatRequest(), "collapse", JobStatus.QUEUED, 1)
    ledger.advance(record, JobStatus.RUNNING, State.REHEATING, "dispatched")
    ledger.advance(record, JobStatus.GATING, State.GATING, "trained")
    ledger.advance(record, JobStatus.SWAPPING, State.SWAPPING, "passed the gates")
    ledger.succeed(record, 2, "policy-v2 is promoted", promoted_at=1.0, follow_up=None)
    told = alerts_of(ledger)
    assert [(alert.kind, alert.severity, alert.resolved) for alert in told] == [
        ("verdict", "critical", False),
        ("promotion", "info", False),
        ("verdict", "critical", True),
    ]
    assert told[0].summary == COLLAPSE and told[0].version == "policy-v1"
    assert told[1].job_id == record.job.job_id and told[1].version == "policy-v2"


def test_a_job_that_ends_badly_is_told_and_the_verdict_not_again(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    collapse(ledger)
    record = ledger.create(ReheatRequest(), "collapse", JobStatus.QUEUED, 1)
    ledger.advance(record, JobStatus.RUNNING, State.REHEATING, "dispatched")
    ledger.finish(record, JobStatus.FAILED, "out of memory", State.COLLAPSED)
    told = alerts_of(ledger)
    assert [(alert.kind, alert.severity) for alert in told] == [("verdict", "critical"), ("job", "warning")]
    assert "out of memory" in told[1].summary


def test_a_worse_verdict_is_told_and_a_request_is_not(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.transition(State.STALLED, "no group varies", version=1)
    ledger.requested("key ops made")
    collapse(ledger)
    assert [alert.severity for alert in alerts_of(ledger)] == ["warning", "critical"]


def test_a_version_that_gives_way_by_itself_wakes_somebody(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.promoted(0, "policy-v1 cannot be served")
    assert [(alert.kind, alert.severity) for alert in alerts_of(ledger)] == [("promotion", "critical")]


def test_a_signature_is_that_of_time_and_body() -> None:
    body, headers = signed(an_alert(), "secret", 1700000000.9)
    digest = hmac.new(b"secret", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert headers == {SIGNATURE_HEADER: f"t=1700000000,v1={digest}"}
    assert Alert.model_validate_json(body) == an_alert()
    assert signed(an_alert(), None, 0.0)[1] == {}


def test_slack_gets_text_that_it_does_not_misread() -> None:
    text = json.loads(slack(an_alert(summary="a < b & c > d"))[0])["text"]
    assert text == ":rotating_light: *tiny*: a &lt; b &amp; c &gt; d\nhttp://daemon"
    assert json.loads(slack(an_alert(resolved=True))[0])["text"].startswith(":white_check_mark:")


def test_pagerduty_gets_one_incident_for_the_verdict() -> None:
    first, last, job = (
        json.loads(pagerduty(alert, "key")[0])
        for alert in (an_alert(), an_alert(id=9, resolved=True), an_alert(kind="job", severity="warning"))
    )
    assert (first["event_action"], last["event_action"]) == ("trigger", "resolve")
    assert first["dedup_key"] == last["dedup_key"] != job["dedup_key"]
    assert first["routing_key"] == "key" and first["payload"]["severity"] == "critical"
    assert first["payload"]["timestamp"] == "2017-07-14T02:40:00+00:00"


class Receiver:
    """A webhook that answers as it is told, with 200 at the end."""

    def __init__(self) -> None:
        self.taken: list[Alert] = []
        self.asked = 0
        self.answers: list[int] = []

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.taken.append(Alert.model_validate_json(await request.read()))
        return web.Response(status=status)


def with_receiver(story: Callable[[Receiver, AlertsSection], Awaitable[None]]) -> None:
    async def run() -> None:
        receiver = Receiver()
        app = web.Application()
        app.router.add_post("/hook", receiver.take)
        async with TestServer(app) as server:
            await story(receiver, AlertsSection(url=str(server.make_url("/hook"))))

    asyncio.run(run())


def alerter_of(ledger: Ledger, settings: AlertsSection, folder: Path) -> Alerter:
    made = Alerter(
        connect(folder / "reheatd.sqlite3"), ledger, settings, hooks_of(settings), policy="tiny", daemon="http://daemon"
    )
    ledger.on_entry = made.wake
    return made


def test_what_is_not_taken_is_sent_again_in_order(tmp_path: Path) -> None:
    async def story(receiver: Receiver, settings: AlertsSection) -> None:
        ledger = ledger_in(tmp_path)
        running = asyncio.create_task(alerter_of(ledger, settings, tmp_path).run())
        receiver.answers = [503, 200]
        collapse(ledger)
        recover(ledger)
        await until(lambda: len(receiver.taken) == 2)
        assert [alert.resolved for alert in receiver.taken] == [False, True]
        assert receiver.asked == 3
        running.cancel()

    with_receiver(story)


def test_what_is_refused_is_given_up_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(receiver: Receiver, settings: AlertsSection) -> None:
        ledger = ledger_in(tmp_path)
        running = asyncio.create_task(alerter_of(ledger, settings, tmp_path).run())
        receiver.answers = [400]
        collapse(ledger)
        recover(ledger)
        await until(lambda: receiver.taken)
        assert receiver.asked == 2 and receiver.taken[0].resolved
        assert "url refuses the alert with 400" in caplog.text
        assert settings.url is not None and settings.url not in caplog.text
        running.cancel()

    with_receiver(story)


def test_alerts_go_on_where_the_last_daemon_stopped(tmp_path: Path) -> None:
    async def story(receiver: Receiver, settings: AlertsSection) -> None:
        ledger = ledger_in(tmp_path)
        ledger.transition(State.STALLED, "before there was a webhook", version=1)
        first = asyncio.create_task(alerter_of(ledger, settings, tmp_path).run())
        collapse(ledger)
        await until(lambda: receiver.taken)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        recover(ledger)  # while nobody tells
        second = asyncio.create_task(alerter_of(ledger, settings, tmp_path).run())
        await until(lambda: len(receiver.taken) == 2)
        assert [alert.summary for alert in receiver.taken] == [COLLAPSE, "policy-v0 was promoted by request"]
        second.cancel()

    with_receiver(story)


def test_what_is_less_severe_than_asked_is_not_told(tmp_path: Path) -> None:
    async def story(receiver: Receiver, settings: AlertsSection) -> None:
        ledger = ledger_in(tmp_path)
        picky = settings.model_copy(update={"least": "critical"})
        running = asyncio.create_task(alerter_of(ledger, picky, tmp_path).run())
        ledger.transition(State.STALLED, "no group varies", version=1)
        collapse(ledger)
        await until(lambda: receiver.taken)
        assert [alert.summary for alert in receiver.taken] == [COLLAPSE]
        running.cancel()

    with_receiver(story)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"url": "hooks.example.com"}, "alerts: url is not like https://host/path"),
        ({"secret_file": "s"}, "secret_file signs what url gets, and there is no url"),
        ({"least": "panic"}, "alerts.least = 'panic'"),
    ],
)
def test_an_unusable_table_is_refused(table: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(overrides={"alerts": table})


def test_a_file_without_a_url_is_refused_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "slack"
    file.write_text("xoxb-secret")
    with pytest.raises(ConfigError, match="does not hold a URL") as refused:
        hooks_of(Settings.model_validate({"alerts": {"slack_url_file": str(file)}}).alerts)
    assert "xoxb" not in refused.value.message


def alerts_test(folder: Path, table: str) -> "subprocess.CompletedProcess[str]":
    (folder / "reheatd.toml").write_text(table)
    argv = [sys.executable, "-m", "cli.main", "alerts", "test", "--config", str(folder / "reheatd.toml")]
    return subprocess.run(argv, capture_output=True, text=True)


def test_the_command_says_who_took_a_test(tmp_path: Path) -> None:
    async def story(receiver: Receiver, settings: AlertsSection) -> None:
        table = f'[alerts]\nurl = "{settings.url}"\n'
        done = await asyncio.to_thread(alerts_test, tmp_path, table)
        assert (done.returncode, done.stdout) == (0, "taken by url\n")
        assert [alert.kind for alert in receiver.taken] == ["test"]
        receiver.answers = [403]
        done = await asyncio.to_thread(alerts_test, tmp_path, table)
        assert (done.returncode, done.stderr) == (1, "reheatd: url refuses the alert with 403\n")
        done = await asyncio.to_thread(alerts_test, tmp_path, "")
        assert done.returncode == 2 and "no webhook is configured" in done.stderr

    with_receiver(story)
