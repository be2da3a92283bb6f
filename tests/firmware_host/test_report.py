"""Reports of host stores: what they say is what was journalled, whatever it is called, and they stay small."""

import base64
import hashlib
import html
import json
import re
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl.checkpoints import Checkpoints
from edgecl.cli import main
from edgecl.errors import EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, EXIT_USAGE, StoreError
from edgecl.journal import Guard, Label, Prediction, Shift
from firmware_host import query
from firmware_host.evaluate.device import evaluate
from firmware_host.evaluate.evaluation import Fleet, Overview
from firmware_host.host_store import HostStore
from firmware_host.ingest import ingest
from firmware_host.replay.bundles import Bundles
from firmware_host.report import fleet as fleets
from firmware_host.report import make, tried
from firmware_host.report import story as stories
from firmware_host.report.domain_map import DomainMap, domain_map, plane
from firmware_host.report.markup import plotted, readable, tag
from firmware_host.report.parts import Plots
from firmware_host.report.pictures import read
from firmware_host.report.story import story
from tests.firmware_host.hosts import Host
from tests.firmware_host.pulled import JUNE_NS, Board, answers, put, run
from tests.firmware_host.reported import NAMES, sample

UTC_NOON = datetime(2025, 6, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards that really ran, one of them without labels, and a hostile one."""
    root = tmp_path_factory.mktemp("store") / "pulled"
    shutil.copytree(boards, root)
    assert all(not one.lost for one in ingest(HostStore(root)))
    return root


@pytest.fixture(scope="module")
def page(store: Path, looped: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of it."""
    return made(store, tmp_path_factory.mktemp("page") / "report.html", "--bundles", looped)


def made(store: Path, out: Path, *options: object) -> str:
    assert main(["report", str(store), "-o", str(out), *map(str, options)]) == EXIT_OK
    return out.read_text("utf-8")


class Seen(HTMLParser):
    """All elements of a page with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "img", "input", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        (self.raw if self.open and self.open[-1] in ("script", "style") else self.texts).append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def rows(page: str, caption: str) -> list[list[str]]:
    """The cells of a table, as text."""
    for whole in re.findall(r"<table.*?</table>", page, re.DOTALL):
        if f">{caption}</caption>" in whole:
            lines = re.findall(r"<tr.*?</tr>", whole, re.DOTALL)
            cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
            return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in line] for line in cells]
    raise AssertionError(caption)


def figures(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found[1])
    return told


# What it says


def test_it_says_what_evaluate_says(store: Path, looped: Path, page: str) -> None:
    with Bundles([looped], []) as bundles:
        (found,) = evaluate(HostStore(store), "cam-1", bundles)
    assert found.accuracy and found.against and found.against.gain and found.matrix
    lead = next(text for text in Seen(page).texts if "answers, " in text and str(found.labelled) in text)
    assert f"{100 * found.accuracy.value:.1f} % of the {found.labelled} with labels right" in lead
    assert f"{abs(100 * found.against.gain.value):.1f} points" in lead
    told = rows(page, "Domains of cam-1")
    assert [line[0] for line in told[1:]] == [readable(one.name) for one in found.domains]
    assert [line[1] for line in told[1:]] == [str(one.answers) for one in found.domains]
    windows = rows(page, "Windows of answers of cam-1")
    assert len(windows) - 1 == len(found.over_time)
    assert [line[4] for line in windows[1:]] == [f"{one.entropy:.3f}" for one in found.over_time]


def test_plots_have_the_figures_of_evaluate(store: Path, looped: Path, page: str) -> None:
    with Bundles([looped], []) as bundles:
        (found,) = evaluate(HostStore(store), "cam-1", bundles)
    lines = [figure for figure in figures(page).values() if figure["layout"].get("yaxis3")]
    drawn = next(figure for figure in lines if len(figure["data"][0]["x"]["answers"]) == len(found.over_time))
    error, faded, entropy = drawn["data"][:3]
    assert error["y"] == [None if w.accuracy is None else float(f"{1 - w.accuracy:.4g}") for w in found.over_time]
    assert [w.faded is None for w in found.over_time] == [value is None for value in faded["y"]]
    assert entropy["y"] == [float(f"{w.entropy:.4g}") for w in found.over_time]
    assert all(len(line["x"]["time"]) == len(line["y"]) for line in (error, faded, entropy))


def test_a_story_has_every_stay_and_every_event_where_it_was(store: Path, looped: Path) -> None:
    with Bundles([looped], []) as bundles, query.opened(HostStore(store)) as connection:
        (found,) = evaluate(HostStore(store), "cam-1", bundles)
        told = story(connection, found)
        answered = connection.execute("SELECT seq, domain FROM predictions WHERE device = 'cam-1'").fetchall()
    stays = {seq: band.domain for band in told.bands for seq in range(band.first_seq, band.last_seq + 1)}
    assert {seq: stays[seq] for seq, _ in answered} == dict(answered)
    assert [one.bundle for one in told.deployments] == list(found.bundles)
    assert {(one.lane, one.what) for one in told.events} >= {
        *(("domain", what) for what in ("began", "founded", "entered", "renamed")), ("label", "given"),
    }  # fmt: skip
    assert sum(one.times for one in told.events if one.lane == "label") == 30
    assert [one.time for one in told.events] == sorted(one.time for one in told.events)


def test_deployments_are_on_the_timeline(tmp_path: Path) -> None:
    clock = Board()
    put(tmp_path, "cam", [run(), *answers(60)], clock=clock)
    put(tmp_path, "cam", [run(bundle="cd" * 32, version=4), *answers(60, first=60)], clock=clock)
    put(tmp_path, "cam", [run(bundle="cd" * 32, version=4), *answers(60, first=120)], clock=clock)
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html")
    (drawn,) = [one for one in figures(text).values() if one["layout"].get("yaxis3")]
    marks = next(one for one in drawn["data"] if one["name"] == "deployed")
    assert marks["text"] == ["door version 3, tent", "door version 4, tent"]  # a restart is none
    assert sum(shape["type"] == "line" for shape in drawn["layout"]["shapes"]) == 2
    assert marks["x"]["answers"] == [0, 0]  # as these runs say that they begin with nothing seen


def test_thousands_of_guard_actions_are_one_mark_a_stretch(tmp_path: Path) -> None:
    many = [
        record
        for seq in range(0, 3000, 2)
        for record in (*answers(2, first=seq), Guard(action=Guard.SKIPPED, reason="busy"))
    ]
    put(tmp_path, "cam", [run(), *many])
    list(ingest(HostStore(tmp_path)))
    with Bundles((), []) as bundles, query.opened(HostStore(tmp_path)) as connection:
        (found,) = evaluate(HostStore(tmp_path), "cam", bundles)
        guard = [one for one in story(connection, found).events if one.lane == "guard"]
    assert sum(one.times for one in guard) == 1500
    assert len(guard) <= stories.STRETCHES + 2


def test_many_shifts_are_told_to_be_some_of_them(tmp_path: Path) -> None:
    flapping = [Shift(seq=seq, began=bool(seq % 2), test="window") for seq in range(1000)]
    put(tmp_path, "cam", [run(), *answers(60), *flapping])
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html")
    assert f"{stories.EVENTS} of 1000 shifts are shown" in text


# Samples


def test_samples_stand_beside_what_was_new(store: Path, page: str) -> None:
    shown = page[page.index("cam-1</h2>") :]
    shown = shown[shown.index("Samples behind") : shown.index("Accuracy by domain")]
    images = [{"alt": alt, "src": src} for src, alt in re.findall(r'<img src="([^"]*)" alt="([^"]*)"', shown)]
    assert len(images) >= 12
    seqs = [int(re.findall(r"sample (\d+)", image["alt"])[0]) for image in images]
    kept = read(store / "cam-1" / "samples", set(seqs))
    assert set(kept) == set(seqs)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)


def test_samples_are_read_from_the_segments_that_have_them(tmp_path: Path) -> None:
    made = [sample(seq, 6) for seq in range(40)]
    paths = put(tmp_path, "cam", made, folder="samples", segment_bytes=1 << 16, every=1)
    assert len(paths) > 5
    found = read(tmp_path / "cam" / "samples", {0, 7, 39, 77})
    assert {seq: one.x for seq, one in found.items()} == {seq: made[seq].x for seq in (0, 7, 39)}
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    assert set(read(tmp_path / "cam" / "samples", {0, 39})) == {39}


def test_pictures_are_small_whatever_the_samples_are(page: str) -> None:
    images = Seen(page).of("img")
    assert max(len(image["src"] or "") for image in images) < 8000
    assert {(image["src"] or "")[:15] for image in images} == {"data:image/png;", "data:image/jpeg"}
    assert "<polyline" in page
    assert "it cannot be shown" in page


def test_pictures_have_a_budget(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_host.report.make.PICTURE_BYTES", 30_000)
    text = made(store, tmp_path / "r.html", "--before", 0)
    images = Seen(text).of("img")
    assert 0 < sum(len(image["src"] or "") for image in images) <= 30_000
    assert "pictures are left out" in text
    assert not Seen(made(store, tmp_path / "r.html", "--before", 0, "--no-samples")).of("img")


# The map of domains


def test_the_plane_keeps_distances_that_a_plane_has() -> None:
    places = np.random.default_rng(0).normal(size=(7, 2))
    squared = ((places[:, None] - places[None]) ** 2).sum(-1)
    found, kept = plane(squared)
    assert kept == pytest.approx(1)
    assert ((found[:, None] - found[None]) ** 2).sum(-1) == pytest.approx(squared)
    assert plane(np.zeros((1, 1)))[1] == plane(np.zeros((3, 3)))[1] == 1


def test_the_map_is_of_the_newest_bank(store: Path, tmp_path: Path) -> None:
    found = domain_map(store / "cam-1", "looped")
    assert isinstance(found, DomainMap)
    bank = Checkpoints(store / "cam-1" / "learned" / "looped").bank()
    assert bank and [one.name for one in found.domains] == [one.name for one in bank[1]]
    assert found.domains[1].name == NAMES[0]
    likeness = np.array(found.likeness)
    assert np.diag(likeness) == pytest.approx(1)
    assert likeness == pytest.approx(likeness.T)
    assert likeness[0, 1] < 0.5
    shutil.copytree(store / "cam-1", tmp_path / "cam")
    for file in (tmp_path / "cam" / "learned" / "looped").glob("*.json"):
        file.write_text("{")
    assert "no checkpoint can be read" in str(domain_map(tmp_path / "cam", "looped"))
    assert "pull --learned" in str(domain_map(tmp_path / "cam", "../../../etc"))


# What-ifs


def test_what_ifs_are_shown_as_they_were_printed(store: Path, looped: Path, tmp_path: Path, host: Host) -> None:
    file = tmp_path / "tries.toml"
    file.write_text(f"[[try]]\nname = {json.dumps(NAMES[1])}\ndomains = 1\n")
    printed = host("replay", store / "cam-1", "--what-if", file, "--bundles", looped, "--json")
    assert printed.code == EXIT_OK, printed.err
    (tmp_path / "tried.json").write_text(printed.out)
    texts = [
        made(store, tmp_path / "r.html", "--device", "cam-1", "--what-if", given, "--bundles", looped, "--before", 0)
        for given in (tmp_path / "tried.json", file)
    ]
    told = [rows(text, "What other settings had done") for text in texts]
    assert told[0] == told[1]
    assert [line[0] for line in told[0][1:]] == ["the board", "unchanged", readable(NAMES[1])]
    results = [json.loads(line) for line in printed.out.splitlines()]
    assert [line[1] for line in told[0][1:]] == [f"{100 * one['accuracy']:.1f} %" for one in results]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "give what edgecl replay"),
        ('{"device": "a"}', "give what edgecl replay"),
        ('{"device": "a", "name": "b", "answers": -1}', "give what edgecl replay"),
        ('{"device": "a", "name": "b", "answers": 1, "accuracy": 7}', "give what edgecl replay"),
        ("nonsense", "see docs/guide/replay.md"),
        ("", "see docs/guide/replay.md"),
    ],
)
def test_other_files_are_no_what_ifs(text: str, why: str, store: Path, tmp_path: Path, host: Host) -> None:
    (tmp_path / "w").write_text(text)
    done = host("report", store, "--what-if", tmp_path / "w")
    assert done.code != EXIT_OK
    assert why in done.err and len(done.err.splitlines()) == 1


def test_tries_that_cannot_be_replayed_are_told(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tries.toml").write_text('[[try]]\nname = "a"\n')
    text = made(store, tmp_path / "r.html", "--device", "cam <b>7", "--what-if", tmp_path / "tries.toml")
    assert "no what-ifs: bundle abababab" in text
    results, failed = tried.replayed(store, ["cam <b>7"], (), (), tmp_path)
    assert not results and list(failed) == ["cam <b>7"]


# Hostile text


def test_nothing_of_a_journal_becomes_markup(page: str) -> None:
    seen = Seen(page)
    assert not seen.open
    assert [attributes.get("id") for attributes in seen.of("script")] == ["figures", "library", None]
    for name, attributes in seen.elements:
        assert name not in ("iframe", "object", "embed", "link", "base", "form", "a:x"), name
        assert not [key for key in attributes if key.startswith("on")], attributes
        assert "style" not in attributes
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/")), value
    texts = " ".join(seen.texts)
    for name in NAMES[:4]:
        assert readable(name, most=24)[:-1] in texts or name in texts, name
    assert "\u202e" not in page and "\x00" not in page and "\u2028" not in page.split('id="library"')[0]


def test_labels_of_plots_are_text(page: str) -> None:
    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for key, inner in value.items() if key != "hovertemplate" for text in strings(inner)]
        if isinstance(value, list):
            return [text for inner in value for text in strings(inner)]
        return [value] if isinstance(value, str) else []

    found = strings(figures(page))
    assert any("evil.example" in text for text in found)
    assert not [text for text in found if "<" in text or "%{" in text]
    templates = re.findall(r'"hovertemplate":"(.*?)"', json.dumps(figures(page), separators=(",", ":")))
    assert templates and not [text for text in templates if "evil" in text or "script" in text]


def test_the_policy_lets_nothing_in(page: str) -> None:
    (policy,) = [one["content"] or "" for one in Seen(page).of("meta") if one.get("http-equiv")]
    told = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert told["default-src"] == ["'none'"]
    assert told["img-src"] == ["data:"]
    assert "connect-src" not in told and "font-src" not in told
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{own}'" in told["script-src"]
    assert all(one.startswith("'sha256-") for one in told["script-src"])
    assert len(told["script-src"]) == 2


def test_readable_text_hides_nothing() -> None:
    assert readable("a\u202eb\u0007c\nd") == "a\\u202eb\\u0007c d"
    assert readable("x" * 200) == "x" * 79 + "…"
    assert readable("a\udce9") == "a\\udce9"
    assert plotted("<b>%{x}&") == "&lt;b&gt;%\u200b{x}&amp;"
    assert tag("p", '<&"', title='"<') == '<p title="&quot;&lt;">&lt;&amp;&quot;</p>'


# Devices and lineages


def test_the_fleet_comes_first_and_those_unlike_it_on_top(tmp_path: Path) -> None:
    for device in range(30):
        records = [run(), *answers(120, seed=device)]
        for record in records[1:]:
            if device == 11 and isinstance(record, Prediction):
                record.entropy += 4
        put(tmp_path, f"cam-{device:02d}", records)
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html")
    told = rows(text, "Devices, those that are unlike the others first")
    assert len(told) == 31
    assert told[1][0] == "cam-11" and "entropy" in told[1]
    assert text.count('<tr class="more">') == 5
    assert len(re.findall(r'<section id="device-\d+" class="device"', text)) == 12
    assert text.index('<section id="fleet"') < text.index("cam-11</h2>")
    text = made(tmp_path, tmp_path / "r.html", "--device", "cam-07")
    assert re.findall(r'<h2 id="device-\d+-title">(.*?)</h2>', text) == ["cam-07"]


def test_a_thousand_devices_stay_small() -> None:
    plots, long = Plots(), "a-rather-long-name-of-a-camera"
    devices = tuple(
        Overview(
            device=f"{long}-{place}", lineage="door-of-the-north", answers=10**6, labelled=10**5, accuracy=place / 1000,
            entropy=0.5, confidence=0.9, novel=0.1, updates=10**4, refused=10**3, latency_p95_ms=12.3, first=UTC_NOON,
            last=UTC_NOON, distance=float(1000 - place) / 50, odd="accuracy",
        )
        for place in range(1000)
    )  # fmt: skip
    shown = fleets.rendered(Fleet(devices), (), plots, {})
    assert shown.count("<tr") == 1001
    assert len(shown) + len(json.dumps(plots.figures)) < 900_000
    # 12 devices in full, with their pictures, and plotly.js
    assert 900_000 + 12 * 150_000 + make.PICTURE_BYTES + 2_100_000 < 10_000_000


def test_lineages_of_a_device_are_told_apart(tmp_path: Path) -> None:
    clock = Board()
    put(tmp_path, "cam", [run("door"), *answers(80)], clock=clock)
    put(tmp_path, "cam", [run("gate", bundle="cd" * 32), *answers(60, first=80)], clock=clock)
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html")
    assert re.findall(r'<h2 id="device-\d+-title">(.*?)</h2>', text) == ["cam, gate", "cam, door"]
    assert "2 lineages ran on this device" in text
    text = made(tmp_path, tmp_path / "r.html", "--lineage", "door")
    assert re.findall(r'<h2 id="device-\d+-title">(.*?)</h2>', text) == ["cam"]


def test_a_device_with_two_clocks_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "cam", [run(), *answers(200)], clock=Board(wall=JUNE_NS))
    put(tmp_path, "cam", [run(), *answers(200, first=200), Label(seq=3, y=1)], boot="b2", clock=Board(wall=10**9))
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html")
    assert "two clocks" in text


def test_a_single_device_without_labels_samples_or_a_bundle_is_reported(tmp_path: Path) -> None:
    records = [run(), *answers(120)]
    for record in records:
        if isinstance(record, Prediction):
            record.ClearField("y")
    put(tmp_path, "cam", records)
    list(ingest(HostStore(tmp_path)))
    text = made(tmp_path, tmp_path / "r.html", "--title", NAMES[2])
    assert f"<title>{html.escape(NAMES[2])}</title>" in text
    assert "none of them with a label" in text
    assert 'id="fleet"' not in text and "<nav" not in text
    assert "What could not be told" in text


def test_what_cannot_be_reported_is_told_in_a_line(store: Path, tmp_path: Path, host: Host) -> None:
    (tmp_path / "empty").mkdir()
    for words, why in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "empty"], "edgecl ingest first"),
        ([store, "--lineage", "none"], "no answers of a lineage none"),
        ([store, "--device", "nobody"], "no answers of a device nobody"),
        ([store, "-o", tmp_path / "not" / "there.html", "--device", "cam-2"], "give another file"),
    ):
        done = host("report", *words)
        assert done.code == EXIT_FAILED
        assert why in done.err.splitlines()[-1]
    assert host("report", store, "--before", -1).code == EXIT_USAGE


def test_one_device_that_cannot_be_told_leaves_the_others(
    store: Path, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but_one(store: HostStore, device: str, *rest: Any) -> Any:
        if device == "cam-1":
            raise StoreError("cam-1: its disk has gone")
        return evaluate(store, device, *rest)

    monkeypatch.setattr(make, "evaluate", but_one)
    done = host("report", store, "-o", tmp_path / "r.html", "--before", 0, "--json")
    assert done.code == EXIT_PARTIAL
    told = json.loads(done.out)
    assert told["failed"] == {"cam-1": "cam-1: its disk has gone"}
    assert set(told["told"]) == {"cam-2", "cam <b>7"}
    assert told["bytes"] == (tmp_path / "r.html").stat().st_size


def test_a_report_is_the_same_again(store: Path, looped: Path, page: str, tmp_path: Path) -> None:
    assert made(store, tmp_path / "r.html", "--bundles", looped) == page
    assert len(page) < 3_000_000
