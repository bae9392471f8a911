"""Generated parts stand between their marks, and nothing else of a page changes."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.generated import with_generated

PAGE = "before\n<!-- generated: one -->\nold\n<!-- end of generated -->\nafter\n"


def test_a_part_is_written_anew_between_its_marks() -> None:
    page = with_generated(PAGE, {"one": ["a", "b"]})
    assert page == "before\n<!-- generated: one -->\na\nb\n<!-- end of generated -->\nafter\n"
    assert with_generated(page, {"one": ["a", "b"]}) == page


@pytest.mark.parametrize("page", ["", PAGE.replace("<!-- end of generated -->", "")])
def test_a_page_without_the_marks_is_named(page: str) -> None:
    with pytest.raises(ProgramError, match="no part between <!-- generated: one -->"):
        with_generated(page, {"one": []})
