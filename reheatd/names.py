"""Names of models and versions, and the one parser of them.

The gateway knows a model by one of these names:

    policy       the version that is promoted now
    base         the bare base model, which is version 0
    policy-v3    version 3
    policy-v3-4bf0c1d27a9e
                 version 3 by the name of its folder, with the digest of its weights; engines know it by this name
    job-ID.1-8   the policy of job ID in its first attempt, after 8 steps; the job samples its rollouts from it
"""

import re

from reheatd.errors import BadInputError

BASE_MODEL_NAME = "base"
"""Name under which the engine serves the bare model."""
ALIAS_NAME = "policy"
"""Name that always means the promoted version."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_VERSION = re.compile(rf"{ALIAS_NAME}-v({_NUMBER.pattern})")
_ROLLOUT = re.compile(r"(job-.+)-\d+")


def version_name(version: int) -> str:
    """The model name of a version, e.g. `policy-v3`; version 0 is the bare base model."""
    return f"{ALIAS_NAME}-v{version}"


def model_name(version: int) -> str:
    """The name that a request is resolved to if it means a version."""
    return version_name(version) if version else BASE_MODEL_NAME


def rollout_name(job_id: str, attempt: int, step: int) -> str:
    """The name under which a job samples from its policy as it is after `step` steps.

    Every attempt has names of its own, because an adapter that a dead worker left loaded may differ from what the next
    worker trains.
    """
    return f"job-{job_id}.{attempt}-{step}"


def rollout_job(name: str) -> str | None:
    """The job and the attempt that sample from the model `name`, e.g. `job-ID.1`; None for any other model."""
    match = _ROLLOUT.fullmatch(name)
    return match[1] if match else None


def parse_version_name(name: str) -> int | None:
    """The version that a model name pins (`policy-v3`, `base`), or None when it pins none."""
    if name == BASE_MODEL_NAME:
        return 0
    match = _VERSION.fullmatch(name)
    return int(match[1]) if match else None


def parse_version(text: str) -> int:
    """The version that a user means by `3`, `v3`, `policy-v3` or `base`.

    Raises:
        BadInputError: The text is none of these.
    """
    digits = text.removeprefix("v")
    version = int(digits) if _NUMBER.fullmatch(digits) else parse_version_name(text)
    if version is None:
        raise BadInputError(f"{text!r} is not a version; name one like 3, v3 or policy-v3", param="version")
    return version
