"""The table `alerts` of the configuration: who is told what the daemon decides."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from reheatd.options import Options

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""The severities, the least one first."""


class AlertsSection(Options):
    url: str | None = Field(default=None, repr=False)
    """URL that gets every alert as a JSON object by POST. Default: nobody."""
    secret_file: Path | None = None
    """File with the secret that signs what `url` gets (HMAC-SHA-256, header `x-reheatd-signature`). Default: nothing is
    signed."""
    slack_url_file: Path | None = None
    """File with the URL of a Slack webhook, or of a service that takes the same messages. Default: nobody."""
    pagerduty_key_file: Path | None = None
    """File with the integration key of a PagerDuty service. Default: nobody."""
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    """URL of PagerDuty's Events API v2; accounts in Europe have https://events.eu.pagerduty.com/v2/enqueue."""
    least: Severity = "warning"
    """Least severity that is told. `critical` is a collapse and what nobody may sleep through, `warning` a stall, a
    policy that runs hot, and a job that failed or was rejected, `info` every promotion as well."""

    @model_validator(mode="after")
    def _usable(self) -> "AlertsSection":
        for name in ("url", "pagerduty_url"):
            url = getattr(self, name)
            if url is not None and not url.startswith(("http://", "https://")):
                raise ValueError(f"{name} is not like https://host/path")
        if self.secret_file is not None and self.url is None:
            raise ValueError("secret_file signs what url gets, and there is no url; set both or neither")
        return self
