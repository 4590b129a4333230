"""The documentation site: it builds strictly, has everything that the code has, works offline, and no link is dead."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from docsite import nav
from docsite.build import ROOT, assemble, render
from docsite.commands import commands_page
from docsite.http_api import http_page
from docsite.settings import settings_page
from reheatd.api.openapi import document
from reheatd.config import Settings
from reheatd.options import Options

READ_IN_THE_REPOSITORY = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(<?([^)\s>]+)>?\)")
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    assemble(folder)
    return folder


@pytest.fixture(scope="module")
def site(assembled: Path) -> Path:
    return render(assembled).parent


def prose(text: str) -> str:
    """Markdown without code, in which no link is one."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))


def headings(text: str) -> set[str]:
    """The anchors of a page as it is shown in the repository, which are made from its headings."""
    found: dict[str, int] = {}
    for line in re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S).splitlines():
        if heading := re.match(r"#+ (.*)", line):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
            found[slug] = found.get(slug, 0) + 1
    return found.keys() | {f"{slug}-{again}" for slug, times in found.items() for again in range(1, times)}


@pytest.mark.parametrize("file", READ_IN_THE_REPOSITORY, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository(file: Path) -> None:
    for target in LINK.findall(prose(file.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = (file.parent / path) if path else file
        assert place.exists(), f"{target} does not exist"
        assert not anchor or anchor in headings(place.read_text(encoding="utf-8")), f"{target} has no such heading"


def test_the_site_has_every_page(site: Path) -> None:
    for name in nav.pages(nav.existing(site.parent / "pages")):
        html = site / Path(name).with_suffix(".html")
        assert html.is_file() and "<h1" in html.read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation(assembled: Path) -> None:
    pages = assembled / "pages"
    there = {str(file.relative_to(pages)) for file in pages.rglob("*.md")}
    assert there - set(nav.pages()) == set()
    assert len(nav.pages()) - len(there) <= 5  # pages that are named before they are written


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for html in site.rglob("*.html"):
        assert LOADED.findall(html.read_text(encoding="utf-8")) == [], html


@pytest.mark.parametrize("link", ["no-such-page.md", "entropy.md#no-such-heading"])
def test_a_dead_link_fails_the_build(link: str, tmp_path: Path) -> None:
    assemble(tmp_path)
    with (tmp_path / "pages" / "faq.md").open("a", encoding="utf-8") as page:
        page.write(f"\nSee [this]({link}).\n")
    with pytest.raises(subprocess.CalledProcessError):
        render(tmp_path)


def test_every_setting_is_documented_with_its_default() -> None:
    page = settings_page()
    for name, field in Settings.model_fields.items():
        table = field.annotation
        if not (isinstance(table, type) and issubclass(table, Options)):
            assert f"| `{name}` |" in page
            continue
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for key, option in table.model_fields.items():
            (row,) = [line for line in section.splitlines() if line.startswith(f"| `{key}` |")]
            assert option.description and " ".join(option.description.split())[:40].replace("|", "\\|") in row
            shown = "unset" if option.default is None else f"`{json.dumps(option.default, default=str)}`"
            assert f"| {shown} |" in row.replace("\\|", "|")


def test_every_command_is_documented_with_its_options() -> None:
    page = commands_page()
    for command in ("serve", "entropy plan", "jobs watch", "adapters import", "explain", "reheat", "rl"):
        assert f" reheatd {command}\n" in page
    reheat = page.split("\n## reheatd reheat\n")[1].split("\n## ")[0]
    for flag in ("--tau", "--target-ratio", "--remedy", "--wait", "--json", "--url"):
        assert f"`{flag}" in reheat
    assert "Temperature of the teacher" in reheat


def test_every_route_is_documented() -> None:
    page = http_page()
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            assert f"### {method.upper()} {path}\n\n{operation['summary']}" in page
    for name in document()["components"]["schemas"]:
        assert f"\n### {name}\n" in page
