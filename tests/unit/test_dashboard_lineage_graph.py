"""The drawing of the lineage."""

from reheatd.dashboard.lineage_graph import DrawnRow, draw


def drawing(parents: dict[int, int | None]) -> list[str]:
    """The rows as text: dots, lines and ways across."""
    return [as_text(row) for row in draw(sorted(parents.items(), reverse=True))]


def as_text(row: DrawnRow) -> str:
    across = range(0) if row.joins is None else range(min(row.column, row.joins), max(row.column, row.joins))
    text = ""
    for column in range(row.columns):
        line = column in row.above | row.below
        text += (
            "●" if column == row.column else "┼" if line and column in (*across, row.joins) else "│" if line else " "
        )
        text += "─" if column in across else " "
    return text.rstrip()


def test_a_run_is_one_straight_line() -> None:
    assert drawing({3: 2, 2: 1, 1: 0, 0: None}) == ["●", "●", "●", "●"]
    newest, *others = draw([(2, 1), (1, 0), (0, None)])
    assert (newest.above, newest.below) == (frozenset(), {0})
    assert [(row.above, row.below) for row in others] == [({0}, {0}), ({0}, frozenset())]
    assert draw([]) == []


def test_versions_that_nobody_continued_hang_on_the_line_of_their_parent() -> None:
    assert drawing({5: 2, 4: 2, 3: 2, 2: 1, 1: None}) == ["●", "┼─●", "┼─●", "●", "●"]


def test_branches_that_go_on_run_side_by_side_and_join() -> None:
    # 6 continues 4, 5 continues 3; 4 and 3 both come from 2.
    assert drawing({6: 4, 5: 3, 4: 2, 3: 2, 2: None}) == ["●", "│ ●", "● │", "┼─●", "●"]


def test_a_line_crosses_others_on_its_way_to_the_parent() -> None:
    # 9 continues 5, and 8 continues 4; 7, 5 and 4 come from 3. The line of 5 crosses that of 4.
    lines = drawing({9: 5, 8: 4, 7: 3, 5: 3, 4: 3, 3: None})
    assert lines == ["●", "│ ●", "│ │ ●", "●─┼─┼", "  ●─┼", "    ●"]


def test_a_line_ends_where_the_parent_is_gone() -> None:
    rows = draw([(4, None), (3, 2), (2, None)])
    assert not rows[0].below and rows[1].below == {0} and not rows[2].below


def test_two_hundred_versions_stay_narrow() -> None:
    # Continuous RL, with a rejected version beside every second one.
    parents: list[tuple[int, int | None]] = [(0, None)]
    tip = 0
    for version in range(1, 200):
        parents.append((version, tip))
        if version % 2:
            tip = version
    rows = draw(reversed(parents))
    assert len(rows) == 200 and max(row.columns for row in rows) == 2
