"""Bundles come to boards, or do not: each outcome, over a link to a real agent, with a real deployer behind it."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from edgecl import deployments, keys, orders, signed, trust
from edgecl.checkpoints import Checkpoints
from edgecl.errors import BundleError, LinkError, RequestError
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard
from edgecl.orders import BeginAnswer, BeginRequest, DeploymentAnswer, NumberRequest
from edgecl.settings import Settings
from edgecl.store import Store
from firmware_host import deploy as deploying
from firmware_host import offer as offers
from firmware_host.client import Client
from firmware_host.deploy import deploy
from firmware_host.events import Event, Lost, Passed, Planned, Sending, Sent
from firmware_host.links.table import link_to
from firmware_host.plan import Wishes
from tests.conftest import MakeBundle
from tests.edgecl import stores
from tests.firmware_host.hosts import Host, Meter, deployed

UNCHANGED_BYTES = 20_000
"""That a bundle which is there already may cost."""


def history(store: Path) -> list[tuple[str, str]]:
    """Outcome and reason of each deployment."""
    return [(one.outcome, one.reason) for one in deployments.read(store).deployments]


def test_a_board_gets_its_first_bundle_the_next_one_and_goes_back(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board, two = f"local:{store}", make_bundle(tmp_path / "two.ecl", version=2)
    with stores.serving(store, "stdin") as service:
        first = host("deploy", looped, board, "--probation", "0 s")
        assert first.code == 0, first.err
        assert first.out == f"committed looped@1   undo: edgecl rollback {board}\n"
        stages = [line.split()[0] for line in first.err.splitlines()[1:]]
        assert stages == ["plan", "not", "receive", "verify", "trial", "take", "switch", "probation"]
        assert "no bundle yet" in first.err and "send 8 of 8 files" in first.err
        assert "not signed: the board is in development mode" in first.err

        service.stdin and service.stdin.write(stores.noise(40).tobytes())
        service.stdin and service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 40)

        meter, before = Meter(store), (store / "control.json").read_bytes()
        assert deployed(meter, looped).outcome == "there"
        assert meter.sent + meter.received < UNCHANGED_BYTES
        assert host("deploy", looped, board).out == "looped@1 answers already\n"
        plan = host("deploy", two, board, "--plan")
        assert plan.code == 0 and "looped@1 -> looped@2   send 2 of 8 files" in plan.out and "as deltas" in plan.out
        assert (store / "control.json").read_bytes() == before
        assert len(list((store / "objects").iterdir())) == 8

        events: list[Event] = []
        broken = Meter(store)
        broken.breaks = lambda meter: meter.opened == 1 and any(isinstance(one, Sent) for one in events)
        after = deployed(broken, two, events)
        assert (after.outcome, after.current_title) == ("committed", "looped@2"), after
        assert after.learned.startswith("carried")
        assert broken.opened == 2 and sum(isinstance(one, Lost) for one in events) == 1
        (planned,) = (one.plan for one in events if isinstance(one, Planned))
        assert planned.send_bytes < 3000 < planned.bytes
        assert planned.send_bytes < broken.sent < UNCHANGED_BYTES
        assert [one.state for one in events if isinstance(one, Passed)] == [*list(deployments.NAMES)[:8], "CLEAN"]

        back = host("rollback", board, "--probation", "0 s")
        assert (back.code, back.out) == (0, "looped@1 answers again\n")
        now = stores.status(store)
        assert now and now.version == 1
        assert host("rollback", board, "--to", "looped@2", "--probation", "0").out == "looped@2 answers again\n"
        unknown = host("rollback", board, "--to", "looped@7")
        assert unknown.code == 1 and "there are looped@" in unknown.err

        told = host("history", board).out.splitlines()
        assert [line.split("  ")[0] for line in told[1:5]] == ["1", "2", "3", "4"]
        assert "back to looped@1  committed" in told[3]
        assert told[-2].startswith("current  looped@2 ")
        lines = [json.loads(line) for line in host("history", board, "--json").out.splitlines()]
        assert [line["outcome"] for line in lines] == ["committed"] * 4


def test_a_bundle_that_would_be_refused_is_refused_before_it_is_sent(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    store = tmp_path / "closed"
    store.mkdir()
    board = f"local:{store}"
    unsigned = host("deploy", looped, board)
    assert unsigned.code == 5
    (line,) = (line for line in unsigned.err.splitlines() if line.startswith("edgecl: "))
    assert "looped@1 refused: looped: not signed" in line and line.endswith("; no bundle answers, as before")
    assert host("deploy", looped, board, "--plan").code == 5
    assert "the board would refuse it: not signed" in host("deploy", looped, board, "--plan").out
    trust.add(store / "trust.d", keys.new(tmp_path, "own"), ("looped",))
    keys.new(tmp_path, "another")
    own, another = (keys.read_private(tmp_path / f"{name}.key", str) for name in ("own", "another"))
    strange = make_bundle(tmp_path / "strange.ecl")
    signed.sign(strange, another).close()
    assert host("deploy", strange, board).code == 5
    with deployments.changing(store) as change:
        change.write(msgspec.structs.replace(change.control, min_versions={"looped": 4}))
    old = make_bundle(tmp_path / "old.ecl", version=3)
    signed.sign(old, own).close()
    assert host("deploy", old, board).code == 5
    outcomes, reasons = zip(*history(store), strict=True)
    assert outcomes == ("refused",) * 3
    assert "not signed" in reasons[0] and "not trusted here" in reasons[1] and "is a downgrade" in reasons[2]
    manifest_and_signature = 6
    assert len(list((store / "objects").iterdir())) < manifest_and_signature
    shown = host("history", board).out
    assert all(reason in shown for reason in reasons)
    assert host("deploy", old, board, "--signed-by", tmp_path / "none.pem").code == 1


def test_what_a_trial_refuses_leaves_the_board_as_it_is(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board = f"local:{store}"
    slow = host("deploy", looped, board, "--latency", "0.0001")
    assert slow.code == 5
    assert "refused: trial: an answer takes" in slow.err and "no bundle answers, as before" in slow.err
    large = make_bundle(tmp_path / "large.ecl", memory_budget_bytes=1 << 20)
    refused = host("deploy", large, board, "--json")
    outcome = json.loads(refused.out.splitlines()[-1])
    assert refused.code == outcome["exit_code"] == 5 and "MB resident, the budget is 1.0 MB" in outcome["reason"]
    assert Store(store).current == "" and not Store(store).staged()
    assert [outcome for outcome, _ in history(store)] == ["refused", "refused"]


def test_a_state_that_lasts_is_told_of_meanwhile(
    host: Host, looped: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "WAITING_S", 0.0)
    done = host("deploy", looped, f"local:{store}", "--probation", "0.5 s", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    waited = [line for line in lines if line["event"] == "waiting"]
    assert done.code == 0 and "TRIAL" in {line["state"] for line in waited}
    assert all(line["number"] == 1 and line["seconds"] >= 0.0 for line in waited)


def test_learned_again_by_the_command(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board = f"local:{store}"
    assert deployed(link_to(board), looped).outcome == "committed"
    with Loop(looped, tmp_path / "lived", Settings(sync=True, keep_bytes=1 << 20), source="stdin") as loop:
        for x in stores.noise(120):
            loop.predict(x)
        loop.operations.add_class("emu")
        loop.operations.label([Given(seq, ("cat", "emu")[seq % 2]) for seq in range(60, 90)])
    place = Store(store).learned("looped", Store(store).current)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tmp_path / "lived" / "learned" / "looped", place)
    shutil.copytree(tmp_path / "lived" / "samples", store / "samples", dirs_exist_ok=True)
    two = make_bundle(tmp_path / "two.ecl", version=2)
    done = host("deploy", two, board, "--learned", "rebase", "--probation", "0 s", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and lines[0]["plan"]["learned"] == "rebase"
    assert lines[-1]["learned"] == "rebased: 30 labelled samples learned again"
    with Store(store).open(Store(store).current) as bundle:
        layouts = bundle.manifest.layouts.values()
    after = Checkpoints(Store(store).learned("looped", Store(store).current)).newest(*layouts)
    assert after and after.learned.added == ("emu",) and after.heads


def test_other_classes_are_not_carried_and_a_bundle_that_does_worse_is_rolled_back(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board = f"local:{store}"
    assert deployed(link_to(board), looped).outcome == "committed"
    watched = Guard(canary_every=0, canary_floor=0.0, entropy_floor=0.2, window=8)
    collapsing = make_bundle(tmp_path / "two.ecl", version=2, guard=watched, trained=())
    others = make_bundle(tmp_path / "others.ecl", version=2, classes=("cat", "dog", "owl", "cow"))
    with stores.serving(store, "stdin", hyper={"shrink": 1.0}, checkpoint_every=1) as service:
        assert service.stdin
        service.stdin.write(stores.noise(8).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 8)
        assert host("snapshot", board).code == 0
        refused = host("deploy", others, board, "--learned", "carry")
        assert refused.code == 5 and "its classes are others" in refused.err and "looped@1 answers" in refused.err
        stop = threading.Event()

        def feed() -> None:
            while not stop.wait(0.01) and service.stdin:
                service.stdin.write(stores.noise(4).tobytes())
                service.stdin.flush()

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            worse = host("deploy", collapsing, board, "--learned", "discard", "--probation", "20 s")
        finally:
            stop.set()
            feeding.join()
        assert worse.code == 6, worse.err
        assert "rolled back: the guard took what it learned back" in worse.err
        assert worse.err.endswith("; looped@1 answers, as before\n")
        now = stores.status(store)
        assert now and now.version == 1
    assert [outcome for outcome, _ in history(store)] == ["committed", "refused", "rolled back"]
    assert "the guard took what it learned back" in host("history", board).out


def test_bytes_that_are_others_are_refused(looped: Path, store: Path) -> None:
    link = link_to(f"local:{store}")
    with offers.opened(looped) as offer, Client(link) as client:
        program = offer.bundle.path("program.pte")
        damaged = bytearray(program.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        program.chmod(0o600)
        program.write_bytes(damaged)
        with pytest.raises(BundleError, match="the bytes that came are others"):
            deploy(client, "board", offer, Wishes(by="test@here"), lambda event: None)
    ((outcome, reason),) = history(store)
    assert outcome == "refused" and "others" in reason
    assert not Store(store).staged()


def test_the_second_host_is_told_who_holds_the_board(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board, other = link_to(f"local:{store}"), make_bundle(tmp_path / "other.ecl", version=2)
    with offers.opened(looped) as offer, Client(board) as client:
        client.upload(offer.pieces[0].content, offer.id)
        request = BeginRequest(bundle=offer.id, by="ann@desk")
        number = client.request(orders.BEGIN, request, BeginAnswer).number
        second = host("deploy", other, f"local:{store}")
        assert second.code == 1
        assert "ann@desk is deploying looped version 1 here" in second.err and "--supersede" in second.err
        back = host("rollback", f"local:{store}")
        assert back.code == 1 and "ann@desk" in back.err
        shown = host("deploy", other, f"local:{store}", "--plan")
        assert "deployment 1 of looped@1 by ann@desk, not switched yet (RECEIVE)" in shown.out
        assert host("deploy", other, f"local:{store}", "--resume").code == 1
        # whoever asks for the same again goes on, also over a second connection
        with Client(board) as again:
            assert again.request(orders.BEGIN, request, BeginAnswer).number == number
    assert "looped@1 superseded: given up by" in host("cancel", f"local:{store}").out
    assert host("cancel", f"local:{store}").code == 1
    nothing = host("rollback", f"local:{store}")
    assert (
        nothing.code == 1
        and nothing.err == "edgecl: no earlier bundle is kept here; deploy the one that should answer\n"
    )
    share = host("deploy", other, f"local:{store}", "--max-in-flight", "200%")
    assert share.code == 2 and "'--max-in-flight': \"200%\"" in share.err


def test_another_host_goes_on_where_one_has_gone(host: Host, looped: Path, store: Path) -> None:
    def gone(event: Event) -> None:
        if isinstance(event, Sending) and event.bytes > 10_000:
            raise LinkError("unplugged")

    with offers.opened(looped) as offer, Client(link_to(f"local:{store}")) as client, pytest.raises(LinkError):
        deploy(client, "board", offer, Wishes(by="ann@desk"), gone)
    objects = store / "objects"
    held = sum(path.stat().st_size for path in objects.iterdir())
    assert held > 10_000
    events: list[Event] = []
    assert deployed(link_to(f"local:{store}"), looped, events, by="bob@desk").outcome == "committed"
    (sent,) = (one for one in events if isinstance(one, Sent))
    (planned,) = (one.plan for one in events if isinstance(one, Planned))
    assert sent.bytes == planned.send_bytes == planned.bytes - held
    assert history(store)[0][0] == "superseded"
    assert deployed(link_to(f"local:{store}"), looped).outcome == "there"


def test_ctrl_c_leaves_the_board_to_itself_and_a_deployment_is_given_up_or_gone_on_with(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    board = f"local:{store}"

    def state() -> str:
        newest = deployments.read(store).deployments[-1:]
        return newest[0].state if newest else ""

    command = [sys.executable, "-P", "-m", "edgecl", "deploy", str(looped), board]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stores.until(state, lambda now: now == "TRIAL")
    child.send_signal(signal.SIGINT)
    _, told = child.communicate()
    assert child.returncode == 130
    assert "interrupted: the same command goes on" in told and "Traceback" not in told
    given_up = host("cancel", board)
    assert given_up.code == 0
    assert "looped@1 superseded: given up for a newer deployment" in given_up.out
    assert Store(store).current == ""

    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    stores.until(state, lambda now: now == "TRIAL")
    killed.kill()
    killed.wait()
    done = host("deploy", looped, board, "--resume", "--probation", "0")
    assert done.code == 0 and done.out.startswith("committed looped@1"), done.err
    assert len(deployments.read(store).deployments) == 2


def test_a_cached_object_that_is_damaged_makes_no_delta(
    host: Host, looped: Path, make_bundle: MakeBundle, tmp_path: Path, store: Path
) -> None:
    two = make_bundle(tmp_path / "two.ecl", version=2)
    with offers.opened(looped) as old, offers.opened(two) as new:
        old.keep()
        new_manifest, cache = new.pieces[0], Path("cache/edgecl/objects")
        made = new.delta(new_manifest, old.id)
        assert made and made.base == old.id
        (cache / old.id).chmod(0o600)
        (cache / old.id).write_bytes(b"{}" + (cache / old.id).read_bytes()[2:])
        with offers.opened(two) as again:
            assert again.delta(new_manifest, old.id) is None


def test_a_request_that_no_deployment_answers(store: Path) -> None:
    with Client(link_to(f"local:{store}")) as client:
        assert client.request(orders.DEPLOYMENT, NumberRequest(), DeploymentAnswer).deployment is None
        with pytest.raises(RequestError, match="deployment 3: not known here"):
            client.request(orders.DEPLOYMENT, NumberRequest(number=3), DeploymentAnswer)
