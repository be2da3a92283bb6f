"""The screen of `edgecl top`: a row a device, and a pane about the one that the cursor is on."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Header, Label

from edgecl.requests import Pause, Resume, Snapshot
from firmware_host.fleet import Device
from firmware_host.top.details import Details
from firmware_host.top.figures import Figures
from firmware_host.top.table import COLUMNS, Column, ordered
from firmware_host.top.watch import EVERY_S, PAUSES_S, Asked, Done, Look, Watcher

ASKED: Final[dict[str, tuple[Asked, str]]] = {
    "pause": (Pause(), "Stop learning on {}? It goes on answering."),
    "resume": (Resume(), "Let {} learn again?"),
    "snapshot": (Snapshot(), "Write down now what {} has learned?"),
}

SHOW_S: Final = 0.2
"""Between two changes of what is shown."""


class Seen(Message):
    """A watcher has something to tell."""

    def __init__(self, what: Look | Done) -> None:
        self.what = what
        super().__init__()


class Confirm(ModalScreen[bool]):
    """Asks before a device is told to do something."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    CSS = """
    Confirm { align: center middle; }
    Confirm > Label { padding: 1 3; border: round $accent; background: $surface; }
    """

    def __init__(self, question: str) -> None:
        self.question = question
        super().__init__()

    def compose(self) -> ComposeResult:
        yield Label(f"{self.question}  \\[y/n]", id="question")

    def action_answer(self, yes: bool) -> None:
        """Leave with the answer."""
        self.dismiss(yes)


class Top(App[None]):
    """Devices, live."""

    TITLE = "edgecl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    DataTable { height: 1fr; }
    Details { height: auto; max-height: 26; border-top: solid $accent; padding: 0 1; }
    Details.hidden { display: none; }
    #facts, #events, #log { text-wrap: nowrap; text-overflow: ellipsis; }
    #facts { height: auto; }
    #sparks { height: 3; margin: 1 0; }
    .spark { width: 1fr; padding-right: 2; }
    .spark Sparkline { height: 2; }
    #told { height: 9; }
    #events { width: 1fr; padding-right: 2; }
    #log { width: 1fr; }
    .-short #facts { max-height: 3; }
    .-short #sparks { margin: 0; }
    .-short #told { height: 4; }
    """
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012  an instance variable to the base class
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("p", "ask('pause')", "pause"),
        Binding("r", "ask('resume')", "resume"),
        Binding("s", "ask('snapshot')", "snapshot"),
        Binding("less_than_sign", "sort(-1)", "sort by", key_display="< >"),
        Binding("greater_than_sign", "sort(1)", "sort by", show=False),
        Binding("o", "reverse", "turn order"),
        Binding("d", "details", "details"),
        Binding("space", "look", "look now"),
    ]

    def __init__(
        self, devices: Sequence[Device], *, every_s: float = EVERY_S, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        super().__init__()
        self.figures = {device.name: Figures(device.name, device.address) for device in devices}
        self.column, self.reversed = 0, False
        self._watchers = {
            device.name: Watcher(device, self._seen, every_s=every_s, pauses_s=pauses_s) for device in devices
        }
        self._shown: list[str] = []
        self._texts: dict[str, list[Text]] = {}
        self._stale = False

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True, icon="")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Details()
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look at the devices."""
        self._fill()
        self.set_interval(SHOW_S, self._show_news)
        for watcher in self._watchers.values():
            watcher.start()

    def on_unmount(self) -> None:
        """Leave the devices."""
        for watcher in self._watchers.values():
            watcher.stop()

    @property
    def selected(self) -> str | None:
        """The device that the cursor is on."""
        table = self.query_one(DataTable)
        return self._shown[table.cursor_row] if 0 <= table.cursor_row < len(self._shown) else None

    # what comes from the devices

    def _seen(self, what: Look | Done) -> None:
        """In the thread of a watcher."""
        self.post_message(Seen(what))

    def on_seen(self, message: Seen) -> None:
        """A look, or what became of a wish."""
        match message.what:
            case Done(device=device, said=said, failed=failed):
                self.notify(said, title=device, severity="error" if failed else "information")
                self.figures[device].say(said, bad=failed)
            case Look() as look:
                self.figures[look.device].take(look)
                self._stale = True

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another device is looked at."""
        self._show_details()

    # what is shown

    def _show_news(self) -> None:
        """Together, as many devices may have something to tell at a time."""
        if self._stale:
            self._fill()

    def _fill(self) -> None:
        """The table as it is now, with the cursor on the device where it was."""
        self._stale = False
        table, before = self.query_one(DataTable), self.selected
        order = [
            one.device for one in ordered(list(self.figures.values()), COLUMNS[self.column], reverse=self.reversed)
        ]
        titles = [self._title(place, column) for place, column in enumerate(COLUMNS)]
        texts = {name: [_cell(column, self.figures[name]) for column in COLUMNS] for name in order}
        with self.batch_update():
            if [str(column.label) for column in table.columns.values()] != titles:
                table.clear(columns=True)
                table.add_columns(*titles)
                self._shown = []
            if self._shown == order:
                self._change(table, texts)
            else:
                table.clear()
                for name in order:
                    table.add_row(*texts[name])
                self._shown = order
                if before in order:
                    table.move_cursor(row=order.index(before), scroll=False)
        self._texts = texts
        away = sum(bool(one.error) for one in self.figures.values())
        self.sub_title = f"{len(order)} devices" + (f", {away} away" if away else "")
        self._show_details()

    def _change(self, table: DataTable[Text], texts: dict[str, list[Text]]) -> None:
        """Only the cells that are others."""
        for row, name in enumerate(self._shown):
            for column, (old, new) in enumerate(zip(self._texts[name], texts[name], strict=True)):
                if (old.plain, old.style) != (new.plain, new.style):
                    table.update_cell_at(Coordinate(row, column), new, update_width=True)

    def _title(self, place: int, column: Column) -> str:
        if place != self.column:
            return column.title
        return f"{column.title} {'▼' if column.falling != self.reversed else '▲'}"

    def _show_details(self) -> None:
        name = self.selected
        details = self.query_one(Details)
        hidden = details.has_class("hidden")
        for other, watcher in self._watchers.items():
            watcher.log = other == name and not hidden
        if not hidden:
            details.show(self.figures[name] if name else None)

    # keys

    def action_sort(self, by: int) -> None:
        """By the next column, or the one before."""
        self.column, self.reversed = (self.column + by) % len(COLUMNS), False
        self._fill()

    def action_reverse(self) -> None:
        """The other way round."""
        self.reversed = not self.reversed
        self._fill()

    def action_details(self) -> None:
        """Show or hide the pane."""
        self.query_one(Details).toggle_class("hidden")
        self._show_details()

    def action_look(self) -> None:
        """Look at the device at once."""
        if name := self.selected:
            self._watchers[name].look()

    def action_ask(self, what: str) -> None:
        """Ask the device for something, once that is confirmed."""
        name = self.selected
        if not name:
            return
        request, question = ASKED[what]
        self.push_screen(Confirm(question.format(name)), self._when(name, request))

    def _when(self, name: str, request: Asked) -> Callable[[bool | None], None]:
        def answered(yes: bool | None) -> None:
            if yes:
                self._watchers[name].ask(request)

        return answered


def _cell(column: Column, one: Figures) -> Text:
    style = "bold red" if column.bad(one) else "dim" if one.error else ""
    if column.title == "state" and not one.error:
        style = {"learning": "green", "paused": "yellow", "no service": "red"}.get(one.state, style)
    right = column.title not in ("device", "state", "bundle")
    return Text(column.text(one), style=style, justify="right" if right else "left")
