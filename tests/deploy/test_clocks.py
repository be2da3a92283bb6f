"""No clock matters but the monotonic one of this boot: not one that was never set, nor one that jumps, nor a reboot."""

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edgecl import deployer, deployments, journal
from edgecl.deployer import Deployer
from edgecl.store import Store
from tests.conftest import MakeBundle
from tests.deploy.forks import learned, version_two
from tests.deploy.test_lost_writes import recorder
from tests.edgecl import stores

__all__ = ["recorder"]


@pytest.mark.parametrize("clock", ["1970", "jumping"])
def test_a_wall_clock_that_is_wrong_does_no_harm(
    clock: str,
    recorder: Path,
    looped: Path,
    make_bundle: MakeBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped, state="STAGE", back=True)
    deployer.carry_on(store)
    monkeypatch.setenv("LD_PRELOAD", str(recorder))
    monkeypatch.setenv("EDGECL_CLOCK", clock)
    with stores.serving(store, "stdin") as service:
        assert service.stdin
        service.stdin.write(stores.noise(40).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 40)
        begun = stores.begun(store, version_two(make_bundle, tmp_path / "two.ecl"), probation_s=0.5)
        start_s = time.monotonic()
        subprocess.run([sys.executable, "-P", "-m", "edgecl.deployer", str(store)], check=True)
        took_s = time.monotonic() - start_s
        status = stores.status(store)
    monkeypatch.undo()
    done = deployments.read(store).find(begun.number)
    assert (done.outcome, done.reason) == ("committed", "")
    assert Store(store).current == begun.bundle
    assert took_s >= 0.5, "the probation was cut short"
    walls_s = [entered.wall_ns / 1e9 for entered in done.trace]
    assert (max(walls_s) < 10 * 365 * 86400) == (clock == "1970")
    assert (max(walls_s) - min(walls_s) > 10 * 365 * 86400) == (clock == "jumping")
    assert status and status.step == learned(store, begun.bundle).learned.states[0].step > 0
    assert not any(isinstance(one, journal.Torn) for one in journal.read(store / "journal"))


def changed(store: Path, **changes: object) -> None:
    with deployments.changing(store) as change:
        change.write(change.control.put(msgspec.structs.replace(change.control.deployments[-1], **changes)))


def test_a_deployment_goes_on_after_reboots(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped, state="STAGE", back=True)
    deployer.carry_on(store)
    stores.begun(store, version_two(make_bundle, tmp_path / "two.ecl"), deadline_s=60.0)
    boots, more = 0, True
    while more:
        boots += 1
        uptime_ns = (1 << 61) if boots % 2 else 0  # this boot's clock seems to be far behind the other's, or ahead
        changed(store, boot=f"{boots:032x}", begun_ns=uptime_ns)
        more = Deployer(store).step()
    done = deployments.read(store).deployments[-1]
    assert (done.outcome, done.reason) == ("committed", "")
    assert boots == len(done.trace)


def test_a_deployment_that_had_its_time_is_refused(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped, state="STAGE", back=True)
    deployer.carry_on(store)
    old = Store(store).current
    second = version_two(make_bundle, tmp_path / "two.ecl")
    stores.begun(store, second, deadline_s=60.0, begun_ns=time.monotonic_ns() - 61 * 10**9)
    deployer.carry_on(store)
    done = deployments.read(store).deployments[-1]
    assert (done.outcome, done.reason) == ("refused", "its deadline of 60 s has passed")
    assert stores.states(done) == ["CLEAN", "END"]
    assert Store(store).current == old
