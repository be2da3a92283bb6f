"""What a new bundle takes over of what the old one learned: all, what labels say, or nothing."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgecl.bundle import Bundle, open_bundle
from edgecl.checkpoints import Checkpoints, Resumed
from edgecl.errors import BundleError
from edgecl.inherit import check, inherit
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard
from edgecl.routing import digest
from edgecl.settings import Settings
from tests.conftest import MakeBundle
from tests.edgecl.stores import noise


@pytest.fixture(scope="module")
def lived(looped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the looped bundle learned: updates, a class that was added, labels; 120 samples into its source."""
    folder = tmp_path_factory.mktemp("lived")
    settings = Settings(sync=True, keep_bytes=1 << 20)
    with Loop(looped, folder, settings, source="stdin") as loop:
        for x in noise(120):
            loop.predict(x)
        loop.operations.add_class("emu")
        loop.operations.label([Given(seq, ("cat", "emu")[seq % 2]) for seq in range(60, 90)])
    return folder / "learned" / "looped"


def newest(bundle: Bundle, learned: Path) -> Resumed:
    found = Checkpoints(learned).newest(*bundle.manifest.layouts.values())
    assert found
    return found


def inherited(old: Path, lived: Path, new: Path, policy: Any, place: Path) -> tuple[str, Resumed, Resumed]:
    with open_bundle(old) as before, open_bundle(new) as after:
        words = inherit(before, lived, after, place / "learned", policy, place / "scratch")
        return words, newest(before, lived), newest(after, place / "learned")


def test_carried_is_all_that_was_learned(looped: Path, lived: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    words, before, after = inherited(looped, lived, make_bundle(tmp_path / "b.ecl", version=2), "carry", tmp_path)
    assert words.startswith("carried: 1 domain, ")
    assert after.learned.bundle != before.learned.bundle
    assert {n: s.digest for n, s in after.learned.states.items()} == {
        n: s.digest for n, s in before.learned.states.items()
    }
    assert (after.learned.added, after.learned.place) == (("emu",), before.learned.place)
    for one, other in zip(after.heads.values(), before.heads.values(), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert before.rehearsal and after.rehearsal
    assert after.rehearsal.read_bytes() == before.rehearsal.read_bytes()


def test_discarded_begins_as_built_where_the_old_one_was(
    looped: Path, lived: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    words, before, after = inherited(looped, lived, make_bundle(tmp_path / "b.ecl", version=2), "discard", tmp_path)
    assert words == "discarded"
    assert [state.step for state in after.learned.states.values()] == [0]
    assert after.learned.place == before.learned.place
    assert before.learned.place.position > 0
    assert (after.learned.added, after.heads, after.rehearsal) == ((), {}, None)


def test_rebased_learns_the_labels_again(looped: Path, lived: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    words, before, after = inherited(looped, lived, make_bundle(tmp_path / "b.ecl", version=2), "rebase", tmp_path)
    assert words == "rebased: 30 labelled samples learned again"
    assert after.learned.added == ("emu",)
    assert after.heads and after.rehearsal
    assert after.learned.place == before.learned.place
    assert after.learned.states[0].digest != before.learned.states[0].digest


def test_a_rebase_without_labels_discards(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    with Loop(looped, tmp_path / "state", Settings(sync=True), source="stdin") as loop:
        for x in noise(40):
            loop.predict(x)
    words, _, after = inherited(
        looped,
        tmp_path / "state" / "learned" / "looped",
        make_bundle(tmp_path / "b.ecl", version=2),
        "rebase",
        tmp_path,
    )
    assert words == "discarded: there is no labelled sample to learn again"
    assert after.learned.states[0].step == 0


def test_what_does_not_pass_the_canaries_is_discarded(
    looped: Path, lived: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    strict = Guard(canary_every=1, canary_floor=1.0, entropy_floor=0.0, window=16)
    words, _, after = inherited(
        looped, lived, make_bundle(tmp_path / "b.ecl", version=2, guard=strict, canary_count=64), "carry", tmp_path
    )
    assert words.startswith("discarded, as it did not pass the canaries: source answers 0.")
    assert after.learned.states[0].step == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("cat", "dog", "owl", "gnu")}, "classes are others"),
        ({"router": None, "head": None}, "tells domains by other taps"),
    ],
)
def test_what_cannot_be_carried_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, looped: Path, lived: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    with open_bundle(looped) as old, open_bundle(make_bundle(tmp_path / "b.ecl", version=2, **changes)) as new:
        with pytest.raises(BundleError, match=message):
            check(old, lived, new.manifest, digest(new), "carry")
        with pytest.raises(BundleError, match=message):
            inherit(old, lived, new, tmp_path / "learned", "carry", tmp_path / "scratch")
    assert not (tmp_path / "learned").exists()


def test_another_layout_is_not_carried(looped: Path, lived: Path, tmp_path: Path) -> None:
    with open_bundle(looped) as old:
        piece = msgspec.structs.replace(old.manifest.layout.theta[0], name="other")
        layout = msgspec.structs.replace(old.manifest.layout, theta=(piece,))
        with pytest.raises(BundleError, match="another layout than what was learned; deploy with --learned"):
            check(old, lived, msgspec.structs.replace(old.manifest, layout=layout), digest(old), "carry")
        check(old, lived, msgspec.structs.replace(old.manifest, layout=layout), digest(old), "discard")


def test_nothing_learned_is_nothing_to_take_over(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    with open_bundle(looped) as old, open_bundle(make_bundle(tmp_path / "b.ecl", version=2)) as new:
        words = inherit(old, tmp_path / "none", new, tmp_path / "learned", "carry", tmp_path / "scratch")
    assert words == "nothing had been learned"
    assert np.all([not path.exists() for path in (tmp_path / "learned", tmp_path / "scratch")])
