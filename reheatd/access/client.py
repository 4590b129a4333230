"""The client's side, from the environment: which daemon it asks, with which key, and which certificates it trusts."""

import os
import ssl
from pathlib import Path
from typing import Literal

from reheatd.errors import BadInputError

URL_ENV = "REHEATD_URL"
DEFAULT_URL = "http://127.0.0.1:8000"
KEY_ENV = "REHEATD_API_KEY"
KEY_FILE_ENV = "REHEATD_API_KEY_FILE"
"""A file that holds the key, where the key itself must not stand in the environment."""
CA_FILE_ENV = "REHEATD_CA_FILE"


def api_key(given: str | None = None) -> str | None:
    """The key that was given, that of `REHEATD_API_KEY`, or in the file of `REHEATD_API_KEY_FILE`; None without one.

    Raises:
        BadInputError: The file cannot be read, or the key has characters that no key has.
    """
    key, name = (os.environ.get(KEY_ENV, "").strip(), KEY_ENV) if given is None else (given, "api_key")
    if not key and (file := os.environ.get(KEY_FILE_ENV)):
        name = KEY_FILE_ENV
        try:
            key = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{KEY_FILE_ENV} = {file} cannot be read ({error})") from error
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise BadInputError(f"{name} does not hold an API key, which has no spaces and only plain characters")
    return key or None


def bearer(key: str | None) -> dict[str, str]:
    """The headers that send a key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def daemon_url() -> str:
    """The address in `REHEATD_URL`, or that of a daemon on this machine with the default port."""
    return os.environ.get(URL_ENV) or DEFAULT_URL


def tls_for(url: str, ca_file: Path | None = None) -> ssl.SSLContext | Literal[True]:
    """How a client checks the server at `url`; True, which HTTP libraries take for their default, if it speaks no TLS.

    Trusted are the certificates of the system and those in `ca_file`, which is `REHEATD_CA_FILE` by default.

    Raises:
        BadInputError: The file holds no certificates.
    """
    if not url.startswith("https:"):
        return True
    context = ssl.create_default_context()
    name, file = ("ca_file", ca_file) if ca_file is not None else (CA_FILE_ENV, os.environ.get(CA_FILE_ENV))
    if file:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            raise BadInputError(f"{name} = {file} holds no certificates in PEM form ({error})") from error
    return context
