"""Settings as the daemon has them after it has read the policy's files."""

from typing import Any

from reheatd.config import Settings


def known_settings(**tables: Any) -> Settings:
    """Settings whose `policy.max_model_len` is a number, 1,024 if the tables do not give another."""
    policy = {"max_model_len": 1024, **tables.pop("policy", {})}
    return Settings.model_validate({"policy": policy, **tables})
