"""The pane of one device: its figures as they went, its last events, and the last lines of its service."""

from typing import Final

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Label, Sparkline, Static

from firmware_host.said import size
from firmware_host.status import rows
from firmware_host.top.figures import TRACKED, Figures

FORMS: Final = {
    "steps": "{:.2f} steps/s",
    "answers": "{:.1f} answers/s",
    "right": "{:.1%} right",
    "entropy": "{:.2f} nats",
    "novel": "{:.1%} novel",
    "latency": "{:.1f} ms",
    "memory": "",
}
SHOWN: Final = 8
"""Events."""


class Details(Vertical):
    """What is told of the device that the cursor is on."""

    def compose(self) -> ComposeResult:
        yield Static("", id="facts")
        with Horizontal(id="sparks"):
            for name in TRACKED:
                with Vertical(classes="spark"):
                    yield Label("", id=f"label-{name}")
                    yield Sparkline([0.0], id=f"spark-{name}")
        with Horizontal(id="told"):
            yield Static("", id="events")
            yield Static("", id="log")

    def show(self, one: Figures | None) -> None:
        """Show this one."""
        facts = self.query_one("#facts", Static)
        if one is None:
            facts.update("no device")
            return
        facts.update(_facts(one))
        for name in TRACKED:
            values = list(one.history[name])
            self.query_one(f"#spark-{name}", Sparkline).data = values or [0.0]
            self.query_one(f"#label-{name}", Label).update(_label(name, values))
        self.query_one("#events", Static).update(_events(one))
        self.query_one("#log", Static).update(Text("\n".join(one.log) or "no log", style="dim", no_wrap=True))


def _label(name: str, values: list[float]) -> Text:
    if not values:
        return Text(f"{name} -", style="dim")
    return Text(size(int(values[-1])) if name == "memory" else FORMS[name].format(values[-1]))


def _facts(one: Figures) -> Text:
    text = Text(no_wrap=True)
    if one.error:
        text.append(f"{one.error}; tried again every {one.pause_s:g} s\n", style="bold red")
    if not one.standing:
        text.append(f"{one.device}  {one.address}")
        return text
    for name, value in list(rows(one.standing))[:6]:
        text.append(f"{name:<12}", style="bold")
        text.append(f"{value}\n", style="dim" if one.error else "")
    text.rstrip()
    return text


def _events(one: Figures) -> Text:
    text = Text(no_wrap=True)
    for event in list(one.events)[-SHOWN:][::-1]:
        text.append(f"{event}\n", style="red" if event.bad else "")
    if not one.events:
        text.append("nothing has happened yet", style="dim")
    return text
