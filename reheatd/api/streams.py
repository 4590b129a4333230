"""Long lists in answers: they are read and sent in parts, so that the streams of other clients go on in between."""

from collections.abc import AsyncIterator, Iterable

from pydantic import BaseModel
from starlette.responses import StreamingResponse

from reheatd.database import in_parts

PART = 20
"""Number of values that are written as JSON at once."""


def with_list(view: BaseModel, field: str, parts: AsyncIterator[list[str]]) -> StreamingResponse:
    """The answer `view`, in which the list `field`, left empty there, is what `parts` yield.

    Args:
        parts: JSON values of the list, in order.
    """
    return StreamingResponse(_json(view, field, parts), media_type="application/json")


def as_json(values: Iterable[BaseModel]) -> AsyncIterator[list[str]]:
    """The values as JSON, a few at a time."""
    return in_parts((value.model_dump_json() for value in values), PART)


async def _json(view: BaseModel, field: str, parts: AsyncIterator[list[str]]) -> AsyncIterator[str]:
    head = view.model_dump_json(exclude={field}).removesuffix("}")
    comma = "," if head != "{" else ""
    yield f'{head}{comma}"{field}":['
    is_first = True
    async for part in parts:
        if part:
            yield ("" if is_first else ",") + ",".join(part)
            is_first = False
    yield "]}"
