"""The webhooks: what each gets for an alert, and how it is sent."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from reheatd.alerts.alert import Alert
from reheatd.config_alerts import SEVERITIES, AlertsSection
from reheatd.errors import ConfigError, ReheatdError
from reheatd.secret_files import read_secret

SIGNATURE_HEADER = "x-reheatd-signature"
TIMEOUT_S = 10.0
PASSING = frozenset((408, 425, 429, *range(500, 600)))
"""Statuses of an answer after which the same message may be taken later."""
MARKS = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}

Headers = dict[str, str]
Message = tuple[bytes, Headers]


class HookBusyError(ReheatdError):
    """A webhook did not take an alert, but may take it later.

    What to do: Nothing: the alert is sent again with growing pauses, for a day. `reheatd alerts test` shows whether
    the webhook takes alerts now.
    """

    code = "alert_not_sent"


class HookRefusedError(ReheatdError):
    """A webhook refused an alert for good.

    What to do: Check the URL, secret or key that the message names, then `reheatd alerts test`. A refused alert is
    not sent again.
    """

    code = "alert_refused"


@dataclass(frozen=True)
class Hook:
    """A webhook."""

    name: str
    """Which setting names it: `url`, `slack` or `pagerduty`."""
    url: str
    message: Callable[[Alert], Message]

    async def send(self, session: aiohttp.ClientSession, alert: Alert) -> None:
        """Sends an alert. Neither messages nor errors show the URL, which may be a secret.

        Raises:
            HookBusyError: It was not taken now.
            HookRefusedError: It will never be taken.
        """
        body, headers = self.message(alert)
        headers = {"content-type": "application/json", "user-agent": "reheatd", **headers}
        try:
            async with session.post(
                self.url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as answer:
                status = answer.status
        except TimeoutError as error:
            raise HookBusyError(f"{self.name} does not answer within {TIMEOUT_S:.0f} s") from error
        except aiohttp.InvalidURL as error:
            raise HookRefusedError(f"{self.name} is no URL") from error
        except aiohttp.ClientError as error:
            raise HookBusyError(f"{self.name} cannot be reached ({type(error).__name__})") from error
        if status in PASSING:
            raise HookBusyError(f"{self.name} answers with {status}")
        if not 200 <= status < 300:
            raise HookRefusedError(f"{self.name} refuses the alert with {status}")


def hooks_of(settings: AlertsSection) -> list[Hook]:
    """The webhooks that the settings name.

    Raises:
        ConfigError: A file cannot be read or does not hold what it should.
    """
    found: list[Hook] = []
    if settings.url is not None:
        secret = None if settings.secret_file is None else read_secret(settings.secret_file, "alerts.secret_file")
        found.append(Hook("url", settings.url, lambda alert: signed(alert, secret, time.time())))
    if settings.slack_url_file is not None:
        url = read_secret(settings.slack_url_file, "alerts.slack_url_file")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"alerts.slack_url_file = {str(settings.slack_url_file)!r} does not hold a URL like https://host/path",
                param="alerts.slack_url_file",
            )
        found.append(Hook("slack", url, slack))
    if settings.pagerduty_key_file is not None:
        key = read_secret(settings.pagerduty_key_file, "alerts.pagerduty_key_file")
        found.append(Hook("pagerduty", settings.pagerduty_url, lambda alert: pagerduty(alert, key)))
    return found


def is_told(alert: Alert, settings: AlertsSection) -> bool:
    """Whether an alert is severe enough."""
    return SEVERITIES.index(alert.severity) >= SEVERITIES.index(settings.least)


def signed(alert: Alert, secret: str | None, now: float) -> Message:
    """The alert as JSON. The signature is the HMAC-SHA-256 of time, a point and the body, as Stripe's webhooks have it.

    Args:
        secret: None: there is no signature.
        now: Seconds since the epoch.
    """
    body = alert.model_dump_json().encode()
    if secret is None:
        return body, {}
    at = str(int(now))
    digest = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    return body, {SIGNATURE_HEADER: f"t={at},v1={digest}"}


def slack(alert: Alert) -> Message:
    """A message of one line for Slack's incoming webhooks."""
    mark = ":white_check_mark:" if alert.resolved else MARKS[alert.severity]
    # In Slack's text, these three characters begin something else.
    summary = alert.summary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _json({"text": f"{mark} *{alert.policy}*: {summary}\n{alert.daemon}"}), {}


def pagerduty(alert: Alert, key: str) -> Message:
    """An event of PagerDuty's Events API v2. Alerts about the verdict are one incident, which the last one resolves."""
    about = "verdict" if alert.kind == "verdict" else f"{alert.kind} {alert.id}"
    event: dict[str, Any] = {
        "routing_key": key,
        "event_action": "resolve" if alert.resolved else "trigger",
        "dedup_key": f"reheatd {alert.daemon} {about}",
        "payload": {
            "summary": f"{alert.policy}: {alert.summary}"[:1024],
            "source": alert.daemon,
            "severity": alert.severity,
            "timestamp": datetime.fromtimestamp(alert.time, UTC).isoformat(),
            "component": "reheatd",
            "class": alert.kind,
            "custom_details": alert.model_dump(mode="json"),
        },
    }
    return _json(event), {}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
