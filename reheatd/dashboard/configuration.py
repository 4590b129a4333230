"""The page *Configuration*: every setting with its value, its meaning and where the value comes from."""

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.config import Settings
from reheatd.config_origins import Origin
from reheatd.dashboard import parameters
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.values import setting
from reheatd.errors import BadInputError
from reheatd.options import Options


@dataclass(frozen=True)
class SettingView:
    """A setting as the page shows it."""

    name: str
    """Its name with that of its table, e.g. `server.port`."""
    value: str
    default: str
    origin: Origin
    differs: bool
    """Whether the value is not the default."""
    description: str
    note: str = ""
    """What `auto` means now, where that is known."""

    def mentions(self, text: str) -> bool:
        return any(text in part.casefold() for part in (self.name, self.value, self.description))


class ConfigurationPage:
    def __init__(self, context: ApiContext, renderer: Renderer) -> None:
        self._context = context
        self._renderer = renderer

    def routes(self) -> list[Route]:
        return [Route("/ui/configuration", self._page, methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        problem, changed, text = None, False, None
        try:
            changed = parameters.choice(request, "changed", ["1"]) is not None
            text = parameters.text(request, "text")
        except BadInputError as error:
            problem = error.message
        tables = setting_views(self._context.settings, {"entropy.max_tokens": self._found_length()})
        chosen = {
            table: [
                view
                for view in views
                if (view.differs or not changed) and (text is None or view.mentions(text.casefold()))
            ]
            for table, views in tables.items()
        }
        return self._renderer.page(
            request,
            "configuration.html",
            status=400 if problem else 200,
            problem=problem,
            changed=changed,
            given=request.query_params,
            tables={table: views for table, views in chosen.items() if views},
            count=sum(len(views) for views in chosen.values()),
            of=sum(len(views) for views in tables.values()),
        )

    def _found_length(self) -> str:
        found = self._context.monitor.max_tokens
        return "" if found is None else f"now {found}"


def setting_views(settings: Settings, notes: dict[str, str]) -> dict[str, list[SettingView]]:
    """All settings by table; those outside of the tables are under the empty name.

    Args:
        notes: What `auto` means now, by the name of the setting.
    """
    views: dict[str, list[SettingView]] = {"": []}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Options):
            views[name] = [
                _view(settings, name, key, each, getattr(value, key), notes)
                for key, each in type(value).model_fields.items()
            ]
        else:
            views[""].append(_view(settings, "", name, field, value, notes))
    return views


def _view(settings: Settings, table: str, key: str, field: FieldInfo, value: Any, notes: dict[str, str]) -> SettingView:
    name = f"{table}.{key}" if table else key
    default = field.get_default(call_default_factory=True)
    return SettingView(
        name=name,
        value=setting(table, key, field, value),
        default=setting(table, key, field, default),
        origin=settings.origin(name),
        differs=value != default,
        description=field.description or "",
        note=notes.get(name, "") if value == "auto" else "",
    )
