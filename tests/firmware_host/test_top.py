"""Devices watched live, on real links to real services: what is shown, what the keys do, and what a lost link costs."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Sparkline, Static

from edgecl import deployer
from edgecl.errors import EXIT_UNREACHABLE, EXIT_USAGE
from edgecl.requests import Status
from firmware_host.fleet import Device
from firmware_host.links.link import Link, Options
from firmware_host.status import Standing
from firmware_host.top.app import Confirm, Top
from firmware_host.top.figures import Figures
from firmware_host.top.table import COLUMNS, ordered, row
from firmware_host.top.watch import Look
from tests.edgecl import stores
from tests.firmware_host.hosts import Host, Meter

TITLES = [column.title for column in COLUMNS]


GONE = Device("gone", "local:/nowhere", Options(agent="/nowhere/edgecl"))


@dataclass(frozen=True)
class Metered(Device):
    """A device on a link that can be broken."""

    meter: Meter = None  # type: ignore[assignment]

    def link(self) -> Link:
        return self.meter


def live(app: Top, do: Callable[[Pilot[None]], Awaitable[None]], size: tuple[int, int] = (150, 42)) -> None:
    """The app on a terminal of this size, while that is done."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await do(pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], good: Callable[[], Any]) -> None:
    """A test that waits in vain is ended by the limit of the whole run."""
    while not good():
        await pilot.pause(0.02)


def cells(app: Top) -> dict[str, dict[str, str]]:
    """What the table shows, by device and column."""
    table = app.query_one(DataTable)
    rows = [[str(cell) for cell in table.get_row_at(place)] for place in range(table.row_count)]
    return {one[0]: dict(zip(TITLES, one, strict=True)) for one in rows}


@pytest.fixture
def board(looped: Path, store: Path) -> Path:
    """A board with a bundle that is committed."""
    stores.begun(store, looped)
    deployer.carry_on(store)
    return store


def test_a_board_is_watched_paused_and_lost(board: Path, tmp_path: Path) -> None:
    meter = Meter(board)
    app = Top([Metered("cam-1", meter.address, meter=meter), GONE], every_s=0.1, pauses_s=(0.1,))

    async def watched(pilot: Pilot[None]) -> None:
        with stores.serving(board, "stdin") as service:
            assert service.stdin
            await until(pilot, lambda: cells(app)["cam-1"]["state"] == "answering")
            await until(pilot, lambda: cells(app)["gone"]["state"].startswith("away, "))
            service.stdin.write(stores.noise(64).tobytes())
            service.stdin.flush()
            await until(pilot, lambda: (found := app.figures["cam-1"].service) and found.samples == 64)
            await until(pilot, lambda: cells(app)["cam-1"]["p95"].endswith("ms"))
            shown = cells(app)["cam-1"]
            assert shown["bundle"] == "looped@1" and shown["memory"].endswith("MB")
            assert float(shown["entropy"]) > 0 and shown["novel"] == "0.0%" and shown["journal"].endswith("%")
            assert app.selected == "cam-1" and app.sub_title == "2 devices, 1 away"
            sparks = {spark.id: spark.data for spark in app.query(Sparkline)}
            assert max(sparks["spark-answers"] or []) > 0 and len(sparks["spark-memory"] or []) > 2
            assert "64 answered" in str(app.query_one("#facts", Static).render())
            await until(pilot, lambda: "looped version 1 answers" in str(app.query_one("#log", Static).render()))
            (tmp_path / "top.svg").write_text(app.export_screenshot())

            await pilot.press("p")
            assert isinstance(app.screen, Confirm) and "Stop learning on cam-1?" in app.screen.question
            await pilot.press("n")
            await pilot.pause()
            assert not (board / "paused").exists() and cells(app)["cam-1"]["state"] != "paused"
            await pilot.press("p", "y")
            await until(pilot, lambda: cells(app)["cam-1"]["state"] == "paused")
            await until(pilot, lambda: any("learning is paused" in str(e) for e in app.figures["cam-1"].events))
            await pilot.press("r", "enter")
            await until(pilot, lambda: cells(app)["cam-1"]["state"] == "answering")
            before = app.figures["cam-1"].service
            await pilot.press("s", "y")
            await until(
                pilot,
                lambda: before and (now := app.figures["cam-1"].service) and now.checkpoint != before.checkpoint,
            )
        await until(pilot, lambda: cells(app)["cam-1"]["state"] == "no service")
        told = [event.text for event in app.figures["cam-1"].events]
        assert told[0] == "the service answers" and told[-1] == "no service answers"
        await pilot.press("p", "y")  # which is told, and harms nothing
        await until(
            pilot, lambda: (last := app.figures["cam-1"].events[-1]).bad and "no service runs here" in last.text
        )

        meter.may_open, meter.breaks = False, lambda meter: True
        await until(pilot, lambda: app.figures["cam-1"].error)
        await until(pilot, lambda: app.sub_title == "2 devices, 2 away")
        assert cells(app)["cam-1"]["bundle"] == "(looped@1)"
        await pilot.press("p", "y")
        await until(pilot, lambda: app.figures["cam-1"].events[-1].text == "it cannot be reached")
        meter.may_open, meter.breaks = True, lambda meter: False
        await until(pilot, lambda: not app.figures["cam-1"].error)
        assert any("reached again" in event.text for event in app.figures["cam-1"].events)
        assert meter.opened == 2
        await pilot.press("q")

    live(app, watched)
    assert "cam-1" in (tmp_path / "top.svg").read_text()


def test_keys_sort_hide_and_move(tmp_path: Path) -> None:
    devices = [replace(GONE, name=name) for name in ("a", "b", "c")]
    app = Top(devices, every_s=60, pauses_s=(60.0,))

    async def pressed(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: all(one.error for one in app.figures.values()))
        for name, entropy in (("a", 0.5), ("b", 1.5), ("c", None)):
            app.figures[name].take(seen(name, entropy=entropy))
        for _ in range(TITLES.index("entropy")):
            await pilot.press("greater_than_sign")
        assert list(cells(app)) == ["b", "a", "c"]
        labels = [str(column.label) for column in app.query_one(DataTable).columns.values()]
        assert labels[TITLES.index("entropy")] == "entropy ▼" and "device" in labels
        await pilot.press("o")
        assert list(cells(app)) == ["a", "b", "c"]
        await pilot.press("home", "down")
        assert app.selected == "b"
        app.figures["b"].take(seen("b", entropy=0.1))
        app._fill()
        assert next(iter(cells(app))) == app.selected == "b"
        await pilot.press("d")
        assert not app.query_one("Details").display
        await pilot.press("d", "less_than_sign")
        assert app.query_one("Details").display and COLUMNS[app.column].title == "canaries"
        await pilot.press("space")

        assert app.query_one(DataTable).size.height >= 8  # below it there is less to see, on a small terminal

    live(app, pressed, size=(80, 24))


def seen(name: str, **changes: Any) -> Look:
    """A look at a device whose service says this."""
    status = msgspec.structs.replace(
        Status(bundle="ab" * 32, name="door", version=3, samples=100, updates=6, uptime_s=10.0, latency_ms=2.0),
        **changes,
    )
    standing = Standing(
        device=name, edgecl="1", free_bytes=10**9, current="ab" * 32, current_title="door@3", service=status,
        trouble="", deployment=None, development=False,
    )  # fmt: skip
    return Look(name, 0.0, standing)


def test_rates_are_between_looks() -> None:
    one = Figures("a")
    one.take(seen("a"), now=0)
    assert (one.steps_hz, one.answers_hz) == (0.6, 10.0)
    one.take(seen("a", samples=160, updates=7, uptime_s=12.0), now=0)
    assert (one.steps_hz, one.answers_hz) == (0.5, 30.0)
    one.take(seen("a", samples=3, updates=0, uptime_s=13.0), now=0)  # another bundle was opened, as all counts say
    assert one.answers_hz == pytest.approx(3 / 13)
    one.take(Look("a", 0.0, None, "unplugged", 1, 5.0), now=0)
    assert (one.steps_hz, one.service, one.state) == (None, None, "away")
    one.take(Look("a", 0.0, None, "unplugged", 2, 5.0), now=0)
    assert one.state == "away, 2. try" and [event.text for event in one.events] == ["unplugged"]


def test_events_tell_what_changed() -> None:
    one = Figures("a")
    for changes in (
        {},
        {"refused": 3, "guard": "skipped: busy"},
        {"refused": 4, "rolled_back": 1, "guard": "rolled back: canaries"},
        {"refused": 4, "rolled_back": 1, "guard": "rolled back: canaries", "domain": "night", "domains": 2},
    ):
        one.take(seen("a", **changes), now=0)
    assert [(event.text, event.bad) for event in one.events] == [
        ("guard, 3 refused; skipped: busy", False),
        ("guard, 1 taken back; rolled back: canaries", True),
        ("in domain night", False),
        ("2 domains", False),
    ]
    gone = seen("a").standing
    assert gone
    one.take(Look("a", 0.0, msgspec.structs.replace(gone, service=None, trouble="no service runs here")), now=0)
    assert one.events[-1].text == "no service answers" and one.state == "no service"


def test_a_row_says_all_and_what_is_bad() -> None:
    one = Figures("a")
    one.take(seen(
        "a", entropy=0.5, novel=0.25, canaries=0.9, accuracy=0.8, refused=5, rolled_back=2, resident_bytes=50_000_000,
        celsius=81.0, journal_bytes=950, journal_quota_bytes=1000, paused=True,
    ))  # fmt: skip
    shown = dict(zip(TITLES, row(one), strict=True))
    assert shown == {
        "device": "a", "state": "paused", "bundle": "door@3", "steps/s": "0.60", "answers/s": "10.0", "right": "80.0%",
        "canaries": "90.0%", "entropy": "0.50", "novel": "25.0%", "guard": "5 (2 back)", "p95": "2.0 ms",
        "memory": "50.0 MB", "heat": "81 °C", "journal": "950 B 95%",
    }  # fmt: skip
    assert [column.title for column in COLUMNS if column.bad(one)] == ["guard", "heat", "journal"]
    others = [replace(Figures("b")), one]
    for column in COLUMNS:
        assert ordered(others, column)[0].device == ("a" if column.title != "state" else "b")


def test_without_a_terminal_the_table_is_text(host: Host, board: Path, tmp_path: Path) -> None:
    (tmp_path / "host" / "fleet.toml").write_text(
        f'[device.cam-1]\naddress = "local:{board}"\ngroups = ["yard"]\n'
        '[device.gone]\naddress = "local:/nowhere"\nagent = "/nowhere/edgecl"\n'
    )
    with stores.serving(board, "stdin") as service:
        assert service.stdin
        service.stdin.write(stores.noise(24).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(board), lambda now: now is not None and now.samples == 24)
        done = host("top")
        assert done.code == 7
        lines = done.out.splitlines()
        assert lines[0].split() == TITLES and len(lines) == 3
        assert lines[1].split()[:3] == ["cam-1", "learning", "looped@1"] and lines[2].split()[:2] == ["gone", "away"]
        assert done.err.startswith("edgecl: gone: ")
        told = [json.loads(line) for line in host("top", "yard", "--json", "--sort", "entropy").out.splitlines()]
        assert told[0]["status"]["service"]["samples"] == 24 and told[0]["answers_hz"] > 0
    assert "no service" in host("top", "cam-1", "--once").out
    assert host("top", "gone").code in (1, EXIT_UNREACHABLE)
    (tmp_path / "host" / "fleet.toml").unlink()
    nothing = host("top")
    assert nothing.code == EXIT_USAGE and "name some" in nothing.err
