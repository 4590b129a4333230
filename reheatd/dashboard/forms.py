"""Reads what a form of a page sends."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from reheatd.errors import BadInputError

MOST_BYTES = 200_000


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form by name, without those that were left empty.

    Raises:
        BadInputError: It is too long, or is not in the form that browsers send.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise BadInputError(f"the form has more than {MOST_BYTES:,} bytes", param="body")
    try:
        return dict(parse_qsl(body.decode("ascii"), errors="strict", max_num_fields=100))
    except ValueError as error:
        raise BadInputError(f"the form cannot be read: {error}", param="body") from error
