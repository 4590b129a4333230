"""Reads the JSON files in a model's folder."""

import json
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError


def read_object(file: Path, param: str) -> dict[str, Any]:
    """The JSON object in a model's file.

    Args:
        param: The setting that names the model, for the message.

    Raises:
        BadInputError: The file cannot be read, or it is no JSON object.
    """
    try:
        contents = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{param}: {file} cannot be read ({error}); get the model's files again", param=param
        ) from error
    if not isinstance(contents, dict):
        raise BadInputError(f"{param}: {file} is not a JSON object; get the model's files again", param=param)
    return contents
