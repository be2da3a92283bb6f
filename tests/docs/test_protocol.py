"""The page of the protocol tells every request that is answered, with every field."""

import re
from pathlib import Path
from typing import get_type_hints

import msgspec

from edgecl import messages
from edgecl.handlers.table import HANDLERS

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "protocol.md"


def test_every_request_is_told_with_its_fields() -> None:
    parts = re.split(r"^### ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    told = {
        (0 if kind == "read" else 2, int(group), int(command)): part
        for part in parts
        for kind, group, command in re.findall(r"(read|write) (\d+) (\d+)", part.splitlines()[0])
    }
    assert set(told) == set(HANDLERS)
    for code, (request, function) in HANDLERS.items():
        answer = get_type_hints(function)["return"]
        for struct in (request, answer):
            for field in msgspec.structs.fields(struct):
                assert f"| `{field.name}`" in told[code], (code, field.name)


def test_the_limits_are_those_of_the_code() -> None:
    text = PAGE.read_text("utf-8")
    limits = (messages.DATA_BYTES, messages.CONSOLE_BYTES, messages.CONSOLE_DATA_BYTES, messages.MAX_OBJECT_BYTES)
    for limit in limits:
        assert f"{limit:,}" in text
    assert f"at most {messages.MAX_WANTED} maps" in text and f"at most {messages.MAX_NAME} bytes" in text
