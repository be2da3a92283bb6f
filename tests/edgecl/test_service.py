"""A service answers what comes, pauses, follows a folder, and lets a deployment take over what it learned."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from edgecl import control, deployer, journal, service_file
from edgecl.errors import ProjectError, RequestError
from edgecl.requests import AddClass, HandOver, ListDomains, Pause, Reopen, Resume, Snapshot, TellStatus
from edgecl.service import PAUSED, Service
from tests.conftest import MakeBundle
from tests.edgecl import stores

Make = Callable[[str], Service]


@pytest.fixture
def store(looped: Path, tmp_path: Path) -> Path:
    """A store with the looped bundle deployed."""
    made = stores.made(tmp_path / "store")
    stores.begun(made, looped)
    deployer.carry_on(made)
    return made


@pytest.fixture
def make(store: Path) -> Iterator[Make]:
    """Makes a service with a source."""
    made: list[Service] = []

    def service(source: str) -> Service:
        (store / service_file.FILE).write_text(f'source = "{source}"\n')
        made.append(Service(store, say=lambda line: None))
        return made[-1]

    yield service
    for one in made:
        one.close("end of the test")


def answer(service: Service, count: int) -> None:
    """Answer so many samples of the service's own source."""
    items = service.items()
    while count:
        item = next(items)
        if item is not None:
            service.take(item)
            count -= 1


def pictures(folder: Path, first: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number, x in enumerate(stores.noise(count, first), first):
        Image.fromarray(x).save(folder / f"new-{number:04}.part", format="PNG")
        (folder / f"new-{number:04}.part").rename(folder / f"{number:04}.png")


def test_a_folder_is_followed(make: Make, tmp_path: Path) -> None:
    pictures(tmp_path / "frames", 0, 10)
    service = make(f"folder:{tmp_path / 'frames'}")
    answer(service, 10)
    pictures(tmp_path / "frames", 10, 10)
    answer(service, 10)
    status = service.perform(TellStatus())
    assert status.samples == 20 and status.step > 0  # type: ignore[union-attr]


def test_a_pause_outlives_the_service(make: Make, store: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "frames", 0, 40)
    service = make(f"folder:{tmp_path / 'frames'}")
    answer(service, 4)
    service.perform(Pause())
    answer(service, 16)
    step = service.perform(Snapshot()).step  # type: ignore[union-attr]
    service.close("restart")
    again = make(f"folder:{tmp_path / 'frames'}")
    answer(again, 8)
    paused = again.perform(Snapshot())
    assert paused.paused and paused.step == step  # type: ignore[union-attr]
    again.perform(Resume())
    assert not (store / PAUSED).exists()
    answer(again, 8)
    assert again.perform(Snapshot()).step > step  # type: ignore[union-attr]


def test_between_hand_over_and_reopen_nothing_is_learned_and_samples_are_answered(make: Make, tmp_path: Path) -> None:
    pictures(tmp_path / "frames", 0, 30)
    service = make(f"folder:{tmp_path / 'frames'}")
    answer(service, 8)
    before = service.perform(HandOver())
    with pytest.raises(RequestError, match="about to switch"):
        service.perform(AddClass(name="emu"))
    answer(service, 12)
    during = service.perform(TellStatus())
    assert during.samples == 20 and during.step == before.step  # type: ignore[union-attr]
    service.perform(Reopen())
    service.perform(AddClass(name="emu"))


def test_answers_go_on_behind_those_of_the_bundle_before(
    make: Make, store: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    pictures(tmp_path / "frames", 0, 30)
    service = make(f"folder:{tmp_path / 'frames'}")
    answer(service, 14)
    stores.begun(store, make_bundle(tmp_path / "two.ecl", version=2), learned="discard")
    with control.answering(service.perform, store):
        deployer.carry_on(store)
    answer(service, 16)
    assert service.perform(TellStatus()).version == 2  # type: ignore[union-attr]
    service.close("end")
    records = [one for one in journal.read(store / "journal") if isinstance(one, journal.Prediction)]
    assert [one.position for one in records] == list(range(30))
    assert [one.seq for one in records] == list(range(30))


def test_without_a_bundle_it_waits(looped: Path, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    (store / service_file.FILE).write_text('source = "stdin"\n')
    service = Service(store, say=lambda line: None)
    assert next(service.items()) is None
    assert service.perform(TellStatus()).bundle == ""  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="no bundle answers here yet; deploy one"):
        service.perform(ListDomains())
    stores.begun(store, looped)
    deployer.carry_on(store)
    assert service.perform(Reopen()).name == "looped"  # type: ignore[union-attr]
    service.close("end")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"service\.toml: missing; write it, with a line like source"),
        ("source = 3", "Expected `str`"),
        ('source = "stdin"\nspeed = 3', "unknown field `speed`"),
        ('source = "stdin"\nkeep = "some"', 'keep = "some" is no size'),
        ("source = ", "see docs/commands/serve.md"),
        ('source = "stdin"\ncheckpoint_every = 0', ">= 1"),
    ],
)
def test_a_wrong_file_is_told_in_a_line(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / service_file.FILE).write_text(text)
    with pytest.raises(ProjectError, match=message):
        Service(tmp_path, say=lambda line: None)
