"""What the documentation shows of the experiment: a command writes it from the report's figures.

A table is a block between two comments, and a figure in a sentence stands between two comments as well:

<!-- table: NAME -->
... whatever was here ...
<!-- end of table -->

... takes <!-- takeoff_shrink:completions -->whatever was here<!-- / --> completions ...

The form after the colon is one of `FORMS`. With a + behind it, the 95% interval follows in brackets.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from examples.countdown.tables import FORMS, interval
from reheatd.errors import BadInputError

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- ([\w.]+):(\w+)(\+?) -->).*?(<!-- / -->)", re.DOTALL)


def render(page: str, tables: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """The page with tables and figures in their places; those that the page does not name are left out.

    Raises:
        BadInputError: The page names a table, a figure or a form that there is not.
    """
    for kind, names, known in (
        ("table", {name for _, name, _ in BLOCK.findall(page)}, tables.keys()),
        ("figure", {name for _, name, _, _, _ in FIGURE.findall(page)}, figures.keys()),
        ("form", {form for _, _, form, _, _ in FIGURE.findall(page)}, FORMS.keys()),
    ):
        if unknown := sorted(names - known):
            near = get_close_matches(unknown[0], known)
            raise BadInputError(f"the page names the {kind} {unknown[0]}, which there is not; near it are {near}")

    def figure(found: re.Match[str]) -> str:
        begin, name, form, has_interval, end = found.groups()
        value = interval(figures, name, FORMS[form]) if has_interval else FORMS[form](figures[name])
        return f"{begin}{value}{end}"

    return FIGURE.sub(figure, BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}{block[3]}", page))
