"""Responses are not stored: what of `/v1/responses` would need that is refused.

An engine would keep a stored response for ever, in its own memory alone: a restart forgets it, other engines do not
know it, and it is nobody's in particular. A response that is made in the background would go on after its request, so
nothing would hold its version in the engine.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from reheatd.errors import BadInputError, NotFoundError


def without_storing(body: dict[str, Any]) -> None:
    """Makes sure that the engine stores nothing of a request. OpenAI's clients ask for it unless they are told not to.

    Raises:
        BadInputError: The request cannot be answered without a store.
    """
    if body.get("background"):
        raise BadInputError(
            "background = true needs stored responses, and none are stored here; leave it out, and read the answer "
            "from this request",
            param="background",
        )
    if body.get("previous_response_id") is not None:
        raise BadInputError(
            "previous_response_id names a stored response, and none are stored here; send the conversation in input",
            param="previous_response_id",
        )
    body["store"] = False


async def stored_response(request: Request) -> Response:
    """Answers whoever asks for a stored response."""
    raise NotFoundError(
        f"response {request.path_params['response_id'][:80]} does not exist, because no responses are stored; the "
        "answer to POST /v1/responses holds everything",
        param="response_id",
    )
