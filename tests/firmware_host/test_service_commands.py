"""What hosts ask of a service: status, pause, resume, snapshot, its log."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from edgecl import deployer
from tests.edgecl import stores
from tests.firmware_host.hosts import Host


def test_a_service_is_asked_paused_and_pulled_from(host: Host, looped: Path, store: Path) -> None:
    stores.begun(store, looped)
    deployer.carry_on(store)
    board = f"local:{store}"
    alone = host("status", board)
    assert alone.code == 0
    assert "looped@1 is current" in alone.out and "no service runs here" in alone.out
    for words in (("pause", board), ("snapshot", board), ("pull", board, "--cut")):
        refused = host(*words)
        assert refused.code == 1 and "no service runs here" in refused.err
    with stores.serving(store, "stdin") as service:
        assert service.stdin
        service.stdin.write(stores.noise(40).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 40)
        assert "answers and does not learn" in host("pause", board).out
        shown = host("status", board).out
        assert "looped@1 answers" in shown and "40 answered" in shown and "paused, faulty at step" in shown
        assert "1, looped@1 by test@here" in shown and ": committed" in shown
        assert "answers and learns" in host("resume", board).out
        assert "checkpoint 00000" in host("snapshot", board).out
        line = json.loads(host("status", board, "--json").out)
        assert line["service"]["samples"] == 40 and line["service"]["checkpoint_age_s"] >= 0
        assert not line["service"]["paused"]
        table = host("status", board, board + "/none").out.splitlines()
        assert table[0].split()[:2] == ["device", "learning"] and len(table) == 3
        first = json.loads(host("pull", board, "--cut", "--json").out)
        assert first["files"] == 2 and first["growing"] == 0
        assert "looped version 1 answers" in host("logs", board).out


def test_the_log_is_followed_and_begins_anew(host: Host, store: Path) -> None:
    board = f"local:{store}"
    assert host("logs", board).code == 1
    log = store / "log" / "edgecl.log"
    log.parent.mkdir()
    log.write_text("".join(f"line {number}\n" for number in range(1000)) + "unfinished")
    shown = host("logs", board).out.splitlines()
    assert shown[-2:] == ["line 999", "unfinished"] and 100 < len(shown) < 1000
    assert shown[0].startswith("line ") and json.loads(host("logs", board, "--json").out.splitlines()[0])
    command = [sys.executable, "-P", "-m", "edgecl", "logs", board, "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        while child.stdout.readline() != "line 999\n":
            pass
        with log.open("a") as file:
            file.write(" and then done\n")
        assert child.stdout.readline() == "unfinished and then done\n"
        os.kill(child.pid, signal.SIGSTOP)  # so that it does not look in between
        with log.open("a") as file:
            file.write("the last line before it begins anew\n")
        log.rename(log.with_name("edgecl.log.1"))
        log.write_text("new\n")
        os.kill(child.pid, signal.SIGCONT)
        assert [child.stdout.readline() for _ in range(2)] == ["the last line before it begins anew\n", "new\n"]
        os.kill(child.pid, signal.SIGSTOP)
        for number in range(2):
            log.rename(log.with_name("edgecl.log.1"))
            log.write_text(f"{number}\n")
        os.kill(child.pid, signal.SIGCONT)
        assert [child.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        child.terminate()
