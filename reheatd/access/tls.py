"""The server's certificate, checked before anything is started."""

import ssl
from pathlib import Path
from typing import NoReturn

from reheatd.config_server import ServerSection
from reheatd.errors import BadInputError


def checked_certificate(server: ServerSection) -> tuple[Path, Path] | None:
    """The files of the certificate and of its key that the settings name; None if they name none.

    Raises:
        BadInputError: A file cannot be read or used; `param` names the setting.
    """
    if server.tls_certificate is None or server.tls_key is None:
        return None
    for name, file in (("tls_certificate", server.tls_certificate), ("tls_key", server.tls_key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise BadInputError(
                f"server.{name} = {file} cannot be read ({error.strerror})", param=f"server.{name}"
            ) from error
    try:
        # Without the function, OpenSSL would ask for the password on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            server.tls_certificate, server.tls_key, password=_refuse_password
        )
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise BadInputError(
            f"server.tls_certificate = {server.tls_certificate} and server.tls_key = {server.tls_key} cannot be used "
            f"({reason}); give PEM files of one certificate and its key",
            param="server.tls_certificate",
        ) from error
    return server.tls_certificate, server.tls_key


def _refuse_password() -> NoReturn:
    raise BadInputError(
        "server.tls_key needs a password, which nobody can give to a daemon; store the key without one",
        param="server.tls_key",
    )
