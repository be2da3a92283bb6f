"""Reports in a real browser, Chromium: plots are drawn, nothing is asked of a network, and all can be read and used."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgecl.cli import main
from edgecl.errors import EXIT_OK
from firmware_host.host_store import HostStore
from firmware_host.ingest import ingest
from tests.firmware_host.pulled import answers, put, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")

PHONE, DESKTOP = (390, 844), (1440, 900)
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
CONTRAST = """
() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const mixed = (one, other, share) => (one * share + other * (255 - share)) / 255;
    const over = (top, below) => below.map((value, at) => at > 2 ? 255 : mixed(top[at], value, top[3]));
    const light = (color) => {
        const [r, g, b] = color.slice(0, 3).map((value) => value / 255)
            .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) layers.push(rgb(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 255]);
    };
    const found = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
        const node = text.parentElement;
        if (!text.textContent.trim() || !node.checkVisibility()) continue;
        if (node.closest("script, style, .unseen, .skip")) continue;
        const style = getComputedStyle(node);
        const drawn = node instanceof SVGElement;
        const ground = behind(drawn ? node.closest(".plot") || node.parentElement : node);
        const ink = over(rgb(drawn ? style.fill : style.color), ground);
        const [low, high] = [light(ground), light(ink)].sort((one, other) => one - other);
        const ratio = (high + 0.05) / (low + 0.05);
        const name = `${node.tagName}.${node.getAttribute("class")}: ${text.textContent.slice(0, 30)}`;
        if (ratio < 4.5) found.set(name, ratio);
    }
    return [...found];
}
"""
"""Texts whose contrast is below that of WCAG 2.2, level AA."""


@pytest.fixture(scope="module")
def report(boards: Path, looped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of boards that really ran, a hostile one, and enough others for a fleet."""
    root = tmp_path_factory.mktemp("store") / "pulled"
    shutil.copytree(boards, root)
    for device in range(30):
        put(root, f"door-{device:02d}", [run(), *answers(60, seed=device)])
    list(ingest(HostStore(root)))
    words = ("--device", "cam-1", "--device", "cam-2", "--device", "cam <b>7", "--bundles", looped)
    out = root / "report.html"
    assert main(["report", str(root), "-o", str(out), *map(str, words)]) == EXIT_OK
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page that was opened and drew its plots, and all that it said and asked for."""

    def __init__(self, browser: Any, report: Path, size: tuple[int, int], **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True, **more)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_selector("html[data-plots=drawn]", state="attached")

    def close(self) -> None:
        """Nothing was said, and nothing was asked of a network."""
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:image/")] == self.asked[:1]


@pytest.fixture(scope="module")
def desk(browser: Any, report: Path) -> Iterator[Any]:
    """A page for tests that leave it as it is, or do not care."""
    visit = Visit(browser, report, DESKTOP)
    yield visit.page
    visit.close()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_fits_and_can_be_read(browser: Any, report: Path, size: tuple[int, int], scheme: str) -> None:
    visit = Visit(browser, report, size, color_scheme=scheme)
    page = visit.page
    drawn = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].map((plot) => [
            plot.querySelectorAll(".main-svg").length,
            [...plot.querySelectorAll(".trace path, .trace text")].filter((one) => one.getBBox().width > 0).length,
            plot.getBoundingClientRect().width, plot.querySelector("svg").getBoundingClientRect().width,
        ])"""
    )
    assert len(drawn) > 6
    for layers, marks, room, width in drawn:
        assert layers >= 1 and marks >= 1
        assert width <= room + 1
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    assert page.evaluate(CONTRAST) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, dark[4:-1].split(", "))) < 60) == (scheme == "dark")
    visit.close()


def test_headings_names_and_numbers_are_there_without_eyes(desk: Any) -> None:
    found = desk.evaluate(
        """() => ({
            levels: [...document.querySelectorAll("h1, h2, h3, h4, h5")].map((one) => Number(one.tagName[1])),
            plots: [...document.querySelectorAll(".plot")].filter((one) => !one.getAttribute("aria-label")).length,
            images: [...document.images].filter((one) => !one.alt).length,
            tables: [...document.querySelectorAll("table")]
                .filter((one) => !one.caption || !one.querySelector("th")).length,
            inputs: [...document.querySelectorAll("input")]
                .filter((one) => !one.closest("label") && !one.getAttribute("aria-label")).length,
            lang: document.documentElement.lang,
            ids: document.querySelectorAll("[id]").length
                - new Set([...document.querySelectorAll("[id]")].map((one) => one.id)).size,
        })"""
    )
    levels = found.pop("levels")
    assert found == {"plots": 0, "images": 0, "tables": 0, "inputs": 0, "lang": "en", "ids": 0}
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_colours_and_axis_are_switched_by_keys_and_remembered(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP, color_scheme="light")
    page = visit.page
    ink = "document.querySelector('.plot .lines path').style.stroke"
    before = page.evaluate(ink)
    page.focus("input[name=theme][value=auto]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert page.evaluate(ink) != before
    titles = "[...document.querySelectorAll('.plot .xtitle')].map((one) => one.textContent)"
    assert "time, UTC" in page.evaluate(titles)
    page.focus("input[name=axis][value=time]")
    page.keyboard.press("ArrowRight")
    assert "answers" in page.evaluate(titles)
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.is_checked("input[name=axis][value=answers]")
    visit.asked = visit.asked[:1]
    visit.close()


def test_the_fleet_is_found_sorted_and_unfolded(desk: Any) -> None:
    page = desk
    shown = "[...document.querySelectorAll('#fleet-table tbody tr')].filter((row) => row.checkVisibility())"
    first = f"{shown}.map((row) => row.cells[0].textContent)"
    assert page.evaluate(f"{shown}.length") == 25
    page.focus("#fleet-all")
    page.keyboard.press("Enter")
    assert page.evaluate(f"{shown}.length") == 33
    page.get_by_role("button", name="device", exact=True).press("Enter")
    assert page.evaluate(first) == sorted(page.evaluate(first))
    page.get_by_role("button", name="answers", exact=True).first.press("Enter")
    assert page.evaluate(first)[0].startswith("cam")
    page.fill("#fleet-search", "DOOR-1")
    assert page.evaluate(first) and all(name.startswith("door-1") for name in page.evaluate(first))
    page.fill("#fleet-search", "")
    page.click("nav a >> nth=1")
    assert page.evaluate("location.hash") == "#device-1"


def test_a_plot_answers_the_pointer(desk: Any) -> None:
    plot = desk.locator("#device-1 .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    desk.mouse.move(box["x"] + box["width"] / 2, box["y"] + 120)
    desk.wait_for_selector("#device-1 .hoverlayer .hovertext", state="attached")


def test_a_finger_on_a_plot_scrolls_the_page(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, PHONE, has_touch=True, is_mobile=True)
    page, touch = visit.page, visit.context.new_cdp_session(visit.page)
    page.evaluate("document.querySelector('#device-1 .plot').scrollIntoView({ behavior: 'instant' })")
    before = page.evaluate("scrollY")
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": 200, "y": 300}]})
    for y in range(280, 80, -20):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": 200, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.evaluate(SETTLED)
    assert page.evaluate("scrollY") > before + 50
    visit.close()


def test_it_prints_light_and_whole(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP, color_scheme="dark")
    page = visit.page
    page.emulate_media(media="print")
    width = "document.querySelector('.plot svg').getBoundingClientRect().width"
    page.evaluate(SETTLED)
    assert page.evaluate(width) <= 700
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within the margins that browsers leave
    page.evaluate(SETTLED)
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible(".controls") and not page.is_visible("nav")
    assert page.evaluate(CONTRAST) == []
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate(SETTLED)
    assert page.evaluate(width) > 600
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and 4 <= pdf.count(b"/Type /Page\n") <= 40
    visit.close()


def test_without_scripts_the_numbers_are_all_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#fleet-table tbody tr").last.is_visible()
    assert page.locator("#device-1 section > .scroll > table").first.is_visible()
    assert not page.locator(".tools").first.is_visible()
    context.close()


def test_markup_in_it_would_not_run(browser: Any, report: Path, tmp_path: Path) -> None:
    """The policy is the second wall: what it keeps out, even if a text came to be markup."""
    attack = (
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
        "<img src='http://127.0.0.1:9/x.png'><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text("utf-8").replace("<main", f"{attack}<main", 1), "utf-8")
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(broken.as_uri())
    page.wait_for_selector("html.js", state="attached")
    assert page.title() == "Report on the fleet"
    assert not [url for url in asked if url.startswith("http")]
    context.close()
