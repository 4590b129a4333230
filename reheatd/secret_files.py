"""Secrets that are kept in files, so that they stand neither in a configuration nor on a command line."""

from pathlib import Path

from reheatd.errors import ConfigError


def read_secret(file: Path, name: str) -> str:
    """The secret in `file`, without the white space around it.

    Args:
        name: The setting that names the file, for messages.

    Raises:
        ConfigError: The file cannot be read, or does not hold one word of printable ASCII.
    """
    try:
        secret = file.expanduser().read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"{name} = {str(file)!r} cannot be read: {error.strerror}", param=name) from error
    except UnicodeDecodeError:
        secret = ""
    if not secret or not all(33 <= ord(character) < 127 for character in secret):
        raise ConfigError(
            f"{name} = {str(file)!r} must hold one word of letters, digits and signs, and nothing else", param=name
        )
    return secret
