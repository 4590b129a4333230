"""The tables in a page of the documentation: blocks between two comments, which a command writes anew.

<!-- table: NAME -->
... whatever was here ...
<!-- end of table -->
"""

import re
from collections.abc import Mapping

from reheatd.errors import BadInputError

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def render(page: str, tables: Mapping[str, str]) -> str:
    """The page with the tables in their blocks; a table that the page does not name is left out.

    Raises:
        BadInputError: The page has a block for a table that there is none of.
    """
    unknown = sorted({name for _, name, _ in BLOCK.findall(page)} - tables.keys())
    if unknown:
        raise BadInputError(f"the page has a block for the table {unknown[0]}; there are {', '.join(tables)}")
    return BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]]}{block[3]}", page)
