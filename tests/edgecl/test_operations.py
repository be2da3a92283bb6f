"""Labels, classes and changes of the bank: learned once, corrected, refused one by one, and on the disk as a whole."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import journal
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints, Resumed
from edgecl.errors import RequestError
from edgecl.journal import Class, Domain, Label, Update
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.operations import DomainFacts
from edgecl.settings import Settings
from edgecl.state import load as load_state

Pixels = npt.NDArray[np.uint8]
MakeBundle = Callable[..., Path]

SYNC = Settings(sync=True, wait=True, domains=8, keep_bytes=1 << 20)
WAIT = Settings(wait=True, domains=8, keep_bytes=1 << 20)
MODES = pytest.mark.parametrize("settings", [SYNC, WAIT], ids=["sync", "background"])


def noise(count: int, seed: int, low: int = 0, high: int = 256) -> Pixels:
    """Images of noise: in all grey levels, they are the source of `looped`."""
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


def dark(count: int, seed: int) -> Pixels:
    return noise(count, seed, 0, 60)


def bright(count: int, seed: int) -> Pixels:
    return noise(count, seed, 200, 256)


def predict(loop: Loop, images: Pixels) -> list[int]:
    return [loop.predict(x).seq for x in images]


def only(kind: Any, state: Path) -> list[Any]:
    return [record for record in journal.read(state / "journal") if isinstance(record, kind)]


def newest(bundle: Path, state: Path) -> Resumed:
    with open_bundle(bundle) as opened:
        found = Checkpoints(state / "learned" / "looped").newest(opened.manifest.layout)
    assert found
    return found


def facts(loop: Loop, name: str) -> DomainFacts:
    (found,) = (one for one in loop.operations.domains() if one.name == name)
    return found


def given(seqs: Sequence[int], name: str) -> list[Given]:
    return [Given(seq, name) for seq in seqs]


@MODES
def test_labels_are_learned_journalled_and_kept(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        seqs = predict(loop, dark(200, 1))
        told = loop.operations.label([*given(seqs[:5], "owl"), *given(seqs[5:10], "yak")])
        assert (told.learned, told.corrected, told.unchanged, told.refused) == (10, 0, 0, ())
        assert told.updates > 0
        assert facts(loop, "domain-1").labels == 10
        assert [(one.name, one.labels) for one in loop.operations.classes()][2:] == [("owl", 5), ("yak", 5)]
    records = only(Label, tmp_path)
    assert [(one.seq, one.y, one.name, one.domain) for one in records] == [
        (seq, 2 + (i >= 5), ["owl", "yak"][i >= 5], 1) for i, seq in enumerate(seqs[:10])
    ]
    assert sum(one.kind == Update.LEARN and one.committed for one in only(Update, tmp_path)) == told.updates
    with Loop(looped, tmp_path, settings) as loop:
        assert facts(loop, "domain-1").labels == 10
        again = loop.operations.label(given(seqs[:5], "owl"))
        assert (again.learned, again.unchanged) == (0, 5)


def test_a_head_takes_over_where_it_is_right_more_often(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Dark images are owls, bright ones yaks: the program knows nothing of it, and has no `learn`."""
    fixed = make_bundle(tmp_path / "fixed.ecl", methods=("infer_b1",), canary_count=0)
    with Loop(fixed, tmp_path, Settings(sync=True, keep_bytes=1 << 20)) as loop:
        owls, yaks = predict(loop, dark(40, 1)), predict(loop, bright(40, 2))
        for owl, yak in zip(owls, yaks, strict=True):
            loop.operations.label([Given(owl, "owl"), Given(yak, "yak")])
        assert facts(loop, "source").answers == "head"
        assert [loop.predict(x).label for x in (*dark(10, 3), *bright(10, 4))] == ["owl"] * 10 + ["yak"] * 10
        before = [loop.predict(x).logits for x in dark(5, 5)]
    with Loop(fixed, tmp_path, Settings(sync=True)) as loop:
        after = [loop.predict(x).logits for x in dark(5, 5)]
        assert facts(loop, "source").answers == "head"
    np.testing.assert_array_equal(before, after)


def test_a_new_class_is_learned_by_name_and_changes_nothing_stored(looped: Path, tmp_path: Path) -> None:
    one_domain = Settings(sync=True, keep_bytes=1 << 20)
    with Loop(looped, tmp_path, one_domain) as loop:
        loop.operations.label(given(predict(loop, dark(40, 1)), "owl"))
        before = newest(looped, tmp_path)
        sums = before.heads[0].read_bytes()
        assert loop.operations.add_class("emu") == 4
        assert loop.classes == ("cat", "dog", "owl", "yak", "emu")
        after = newest(looped, tmp_path)
        assert after.learned.states[0].digest == before.learned.states[0].digest
        assert after.heads[0].read_bytes() != sums, "it is wider"
        assert len(loop.predict(dark(1, 2)[0]).logits) == 5
        told = loop.operations.label(given(predict(loop, bright(40, 3)), "emu"))
        assert (told.learned, told.updates) == (40, 0), "gradients do not know the class"
        assert {loop.predict(x).label for x in bright(9, 4)} == {"emu"}
        assert {loop.predict(x).label for x in dark(9, 5)} == {"owl"}
    assert [(one.index, one.name) for one in only(Class, tmp_path)] == [(4, "emu")]
    with Loop(looped, tmp_path, one_domain) as loop:
        assert loop.classes[-1] == "emu" and loop.predict(bright(1, 4)[0]).label == "emu"


def test_a_new_class_gets_a_prototype_and_the_others_keep_theirs(looped: Path, tmp_path: Path) -> None:
    """So what belongs to it is like something known; and no more when its labels are taken back."""
    settings = Settings(sync=True, keep_bytes=1 << 20, domains=8)
    strange, source = bright(30, 3), noise(30, 4)

    def alike(loop: Loop, images: Pixels) -> list[float]:
        return [loop.predict(x).similarity or 0.0 for x in images]

    with Loop(looped, tmp_path, settings) as loop:
        seqs = predict(loop, strange)
        before, of_source = alike(loop, strange), alike(loop, source)
        loop.operations.add_class("emu")
        assert alike(loop, strange) == before
        loop.operations.label(given(seqs, "emu"))
        after = alike(loop, strange)
        assert all(new >= old for old, new in zip(before, after, strict=True)) and sum(after) > sum(before)
        assert all(new >= old for old, new in zip(of_source, alike(loop, source), strict=True))
    with Loop(looped, tmp_path, settings) as loop:
        assert alike(loop, strange) == after
        loop.operations.label(given(seqs, "owl"))
        assert alike(loop, strange) == before


def test_a_label_is_corrected(looped: Path, tmp_path: Path) -> None:
    heads = []
    for number, turns in enumerate((["owl", "yak"], ["yak"])):
        where = tmp_path / str(number)
        with Loop(looped, where, SYNC) as loop:
            seqs = predict(loop, dark(200, 1))
            for name in turns:
                told = loop.operations.label(given(seqs[:6], name))
            loop.operations.label(given(seqs[6:9], "cat"))
        assert told.corrected == (6 if len(turns) == 2 else 0)
        opened = newest(looped, where)
        heads.append(opened.heads[1].read_bytes())
        known = only(Label, where)
        assert {one.name for one in known if one.HasField("before")} == ({"yak"} if len(turns) == 2 else set())
    assert len(heads[0]) == len(heads[1])
    with Loop(looped, tmp_path / "0", SYNC) as first, Loop(looped, tmp_path / "1", SYNC) as second:
        counts = [[one.labels for one in loop.operations.classes()] for loop in (first, second)]
    assert counts[0] == counts[1] == [3, 0, 0, 6]


def test_labels_that_cannot_be_learned_are_refused_one_by_one(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        seqs = predict(loop, noise(20, 1))
        told = loop.operations.label(
            [Given(seqs[0], "owl"), Given(seqs[1], "emu"), Given(999, "owl"), Given(seqs[2], "cat")]
        )
        assert (told.learned, [one.row for one in told.refused]) == (2, [1, 2])
        assert told.refused[0].reason == "no class 'emu'; there are cat, dog, owl, yak; or add it first"
        assert told.refused[1].reason == "sample 999 was not answered yet; only samples kept can be learned"
    with Loop(looped, tmp_path / "none", Settings(sync=True)) as loop:
        seqs = predict(loop, noise(20, 1))
        told = loop.operations.label(given(seqs[:1], "owl"))
        assert told.refused[0].reason == f"sample {seqs[0]} is not kept; only samples kept can be learned"


def test_the_ring_of_samples_is_bounded_and_drops_the_oldest(looped: Path, tmp_path: Path) -> None:
    quota = 8 << 16
    with Loop(looped, tmp_path, Settings(sync=True, keep_bytes=quota)) as loop:
        seqs = predict(loop, np.random.default_rng(1).integers(0, 256, (6000, 8, 8, 3), dtype=np.uint8))
        told = loop.operations.label([Given(seqs[0], "owl"), Given(seqs[-1], "owl")])
    assert [one.seq for one in told.refused] == [seqs[0]] and told.learned == 1
    assert sum(path.stat().st_size for path in (tmp_path / "samples").iterdir()) <= quota + (1 << 16)


@MODES
def test_domains_are_renamed_merged_dropped_and_exported(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        for images in (dark(200, 1), bright(200, 2), noise(200, 3, 100, 130)):
            predict(loop, images)
        ask = loop.operations
        assert [one.name for one in ask.domains()] == ["source", "domain-1", "domain-2", "domain-3"]
        assert [one.active for one in ask.domains()] == [False, False, False, True]
        ask.rename("domain-1", "night")
        ask.rename("2", "noon")
        ask.export("night", tmp_path / "night.safetensors")
        kept = facts(loop, "night")
        with open_bundle(looped) as opened:
            exported = load_state(tmp_path / "night.safetensors", opened.manifest.layout)
        assert exported.digest == kept.digest and exported.step == kept.step > 0
        ask.merge("domain-3", "noon")
        assert [(one.number, one.name) for one in ask.domains()] == [(0, "source"), (1, "night"), (2, "noon")]
        assert facts(loop, "night") == kept, "the others are as they were"
        assert loop.domain == "noon"
        ask.drop("noon")
        assert loop.domain == "source" and facts(loop, "night") == kept
        assert loop.predict(dark(1, 9)[0]).domain in ("source", "night")
    events = [(one.what, one.domain, one.name) for one in only(Domain, tmp_path)]
    assert [event for event in events if event[0] > Domain.ENTERED or event[0] == Domain.MERGED] == [
        (Domain.RENAMED, 1, "night"),
        (Domain.RENAMED, 2, "noon"),
        (Domain.MERGED, 3, "domain-3"),
        (Domain.DROPPED, 2, "noon"),
    ]
    with Loop(looped, tmp_path, settings) as loop:
        assert [one.name for one in loop.operations.domains()] == ["source", "night"]


def test_what_a_merged_domain_was_taught_is_kept_and_of_a_dropped_one_forgotten(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        night, noon = predict(loop, dark(200, 1)), predict(loop, bright(200, 2))
        loop.operations.label([*given(night[:4], "owl"), *given(noon[:3], "yak")])
        loop.operations.merge("domain-1", "domain-2")
        assert facts(loop, "domain-1").labels == 7
        told = loop.operations.label(given(noon[:3], "yak"))
        assert told.unchanged == 3
        loop.operations.drop("domain-1")
        assert [one.labels for one in loop.operations.domains()] == [0]
        told = loop.operations.label(given(noon[:3], "yak"))
        assert told.learned == 3, "it may be taught again, to what is there"


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda ask: ask.rename("day", "night"), "domain day: there is none of that name; there are source, domain-1"),
        (lambda ask: ask.rename("domain-1", "source"), "domain source: there is one of that name"),
        (lambda ask: ask.rename("domain-1", "7"), "domain 7: there is one of that name"),
        (lambda ask: ask.rename("domain-1", "a\nb"), "give 1 to 100 printable characters"),
        (lambda ask: ask.rename("domain-1", ""), "give 1 to 100 printable characters"),
        (lambda ask: ask.drop("source"), "domain source: the source stays as it is"),
        (lambda ask: ask.merge("source", "domain-1"), "domain source: the source stays as it is"),
        (lambda ask: ask.merge("domain-1", "1"), "give two different ones"),
        (lambda ask: ask.add_class("owl"), "class owl: there is one of that name"),
        (lambda ask: ask.add_class(" owl"), "give 1 to 100 printable characters"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    looped: Path, tmp_path: Path, ask: Callable[[Any], object], problem: str
) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        predict(loop, dark(200, 1))
        before, checkpoint = loop.operations.domains(), loop.checkpoint
        with pytest.raises(RequestError, match=problem):
            ask(loop.operations)
        assert (loop.operations.domains(), loop.checkpoint, loop.classes[-1]) == (before, checkpoint, "yak")


def test_without_a_head_no_class_can_be_added_and_labels_teach_the_program(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    plain = make_bundle(tmp_path / "plain.ecl", router=None, head=None, detector=None)
    with Loop(plain, tmp_path / "state", Settings(sync=True, keep_bytes=1 << 20)) as loop:
        seqs = predict(loop, noise(8, 1))
        with pytest.raises(RequestError, match="looped has no head to tell it"):
            loop.operations.add_class("emu")
        told = loop.operations.label(given(seqs[:4], "owl"))
        assert told.learned == 4 and told.updates > 0


def test_any_sequence_of_operations_leaves_the_other_domains_bit_identical(looped: Path, tmp_path: Path) -> None:
    """By the sha256 of all files of every domain that an operation does not name."""
    chance = np.random.default_rng(8)
    with Loop(looped, tmp_path, SYNC) as loop:
        seqs = {}
        for number, images in enumerate((dark(200, 1), bright(200, 2), noise(200, 3, 100, 130)), 1):
            seqs[f"domain-{number}"] = predict(loop, images)
        ask, count = loop.operations, 0
        for step in range(40):
            names = [one.name for one in ask.domains() if one.name != "source"]
            before = _entries(loop)
            touched: set[str] = set()
            choice = str(chance.choice(["label", "rename", "class", "stream", "merge"], p=[0.5, 0.2, 0.1, 0.15, 0.05]))
            name = str(chance.choice(names))
            if choice == "label":
                some = chance.choice(seqs[name], 3, replace=False).tolist()
                ask.label([Given(seq, str(chance.choice(["cat", "owl", "yak"]))) for seq in some])
                touched = {name}
            elif choice == "rename":
                ask.rename(name, f"r{step}")
                seqs[f"r{step}"] = seqs.pop(name)
                touched = {name, f"r{step}"}
            elif choice == "class":
                ask.add_class(f"c{step}")
                touched = {one.name for one in ask.domains() if one.labels}  # their heads are wider
            elif choice == "stream":
                images = [dark, bright][count % 2](12, 100 + step)
                count += 1
                touched = {loop.predict(x).domain for x in images}
                loop.operations.label([])
            elif len(names) > 2:
                one, other = names[:2]
                ask.merge(one, other)
                seqs[one] += seqs.pop(other)
                touched = {one, other}
            after = _entries(loop)
            for other_name, entry in before.items():
                if other_name not in touched:
                    assert after[other_name] == entry, (step, choice)


def _entries(loop: Loop) -> dict[str, Any]:
    """What a checkpoint of now names for each domain."""
    loop.operations.snapshot()
    assert loop.checkpoint
    index = Checkpoints(loop.checkpoint.parent)._read(loop.checkpoint)
    return {entry.name: (entry.state, entry.signature, entry.calibration, entry.head) for entry in index.domains}
