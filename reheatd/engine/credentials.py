"""The secret that daemon and engines share: the engine's API key, from which the key of its entropy tap is derived.

Engines that the daemon starts get a new random key with each start of the daemon. Engines that run elsewhere, and
`reheatd engine`, read it from `engine.api_key_file` or the environment variable VLLM_API_KEY. An engine gets it in its
environment, never on its command line, which every user of the machine can read.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field

from reheatd.config_tables import EngineSection
from reheatd.errors import ConfigError
from reheatd.secret_files import read_secret
from reheatd.tap.seal import KEY_ENV

API_KEY_ENV = "VLLM_API_KEY"
"""Where vLLM looks for its API key, which it asks for on every route below /v1."""
KEY_CHECK = "reheatd.engine.key_check.RequireKey"
"""vLLM middleware that asks for the key on every other route, too."""
LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True)
class EngineCredentials:
    """What proves to an engine that a request comes from its daemon, and to the daemon that a datagram is its tap's."""

    api_key: str = field(repr=False)

    @classmethod
    def random(cls) -> "EngineCredentials":
        return cls(secrets.token_urlsafe(32))

    @property
    def tap_key(self) -> str:
        return hmac.new(self.api_key.encode(), b"reheatd entropy tap", hashlib.sha256).hexdigest()

    def engine_env(self) -> dict[str, str]:
        """The environment of an engine that is to know the secret."""
        return {API_KEY_ENV: self.api_key, KEY_ENV: self.tap_key}


def given_credentials(engine: EngineSection) -> EngineCredentials | None:
    """The credentials that the user has given; None if there are none.

    Raises:
        ConfigError: The file cannot be read.
    """
    if engine.api_key_file is not None:
        return EngineCredentials(read_secret(engine.api_key_file, "engine.api_key_file"))
    given = os.environ.get(API_KEY_ENV)
    return EngineCredentials(given) if given else None


def daemon_credentials(engine: EngineSection) -> EngineCredentials | None:
    """The credentials for the daemon's engines; None if they run elsewhere and the user has given none.

    Raises:
        ConfigError: The file cannot be read.
    """
    if engine.urls:
        return given_credentials(engine)
    return EngineCredentials.random()


def standalone_credentials(engine: EngineSection) -> EngineCredentials | None:
    """The credentials of an engine that is started by hand; None for one on loopback if the user has given none.

    Raises:
        ConfigError: The file cannot be read, or the engine would be open to others without a key.
    """
    given = given_credentials(engine)
    if given is None and not engine.host.startswith(LOOPBACK):
        raise ConfigError(
            f"engine.host = {engine.host!r} is open to others, who could load adapters; name a file with a secret in "
            "engine.api_key_file, the same for engine and daemon, or listen on 127.0.0.1",
            param="engine.api_key_file",
        )
    return given
