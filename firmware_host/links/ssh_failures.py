"""Why ssh failed, and the cure, from its exit code and what it said: one line of ours for many of its own."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

SSH_FAILED: Final = 255
NOT_FOUND: Final = 127
USAGE: Final = 2


def explain(address: str, code: int | None, said: str) -> str:
    """What happened and what to do, in one line."""
    said = said.replace("\r", "")
    for pattern, tell in _CAUSES:
        if found := re.search(pattern, said):
            return tell(address, found, said)
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    if code == NOT_FOUND:
        return f"edgecl is not installed there; bring it: edgecl provision {address}"
    if code == SSH_FAILED or code is None:
        return f"the connection ended{f': {last}' if last else ''}; run the same command again"
    if code == USAGE and "No such command" in said:
        return f"its edgecl is too old to answer; renew it: edgecl provision {address}"
    return f"the agent ended with code {code}{f': {last}' if last else ''}; try: ssh {address} edgecl agent </dev/null"


def _key_changed(address: str, found: re.Match[str], said: str) -> str:
    sent = re.search(r"SHA256:[A-Za-z0-9+/]+", said)
    kept = re.search(r"Offending \S+ key in (.+):(\d+)", said)
    where, old = "known_hosts", "?"
    if kept:
        where = kept[1]
        old = _fingerprint(Path(kept[1]), int(kept[2])) or "?"
    return (
        f"its host key has changed: known is {old}, it sent {sent[0] if sent else '?'}; if the board was set up anew "
        f"and the latter is its own, forget the old one: ssh-keygen -f {where} -R {_host(address)}"
    )


def _fingerprint(path: Path, number: int) -> str | None:
    """Of the key in one line of known_hosts, as ssh shows it."""
    try:
        words = path.read_text("utf-8", "replace").splitlines()[number - 1].split()
        blob = next(word for word in words if word.startswith("AAAA"))
        digest = hashlib.sha256(base64.b64decode(blob)).digest()
    except (OSError, IndexError, StopIteration, binascii.Error):
        return None
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _host(address: str) -> str:
    """As known_hosts names it."""
    host = address.removeprefix("ssh://").rstrip("/").rpartition("@")[2]
    name, colon, port = host.rpartition(":")
    return f"'[{name.strip('[]')}]:{port}'" if colon and port.isdigit() and port != "22" else host


def _key_unknown(address: str, found: re.Match[str], said: str) -> str:
    return (
        f"its host key is not known yet; connect once by hand and compare the fingerprint that it shows: ssh {address}"
    )


def _denied(address: str, found: re.Match[str], said: str) -> str:
    return (
        f"it let nobody in ({found[1]}); edgecl asks for no password: give the board your key with "
        f"ssh-copy-id {address}, or load it with ssh-add"
    )


def _unresolved(address: str, found: re.Match[str], said: str) -> str:
    return f"{found[1]} is no known name; check the address, or the aliases in ~/.ssh/config"


def _unreachable(address: str, found: re.Match[str], said: str) -> str:
    return f"it cannot be reached: {found[1].strip()}; check that the board is on, and its network and address"


def _jump(address: str, found: re.Match[str], said: str) -> str:
    return f"the jump host cannot reach it: {found[1].strip()}; check the board, and ProxyJump in ~/.ssh/config"


def _silent(address: str, found: re.Match[str], said: str) -> str:
    return "the network or the board fell silent; run the same command again, it goes on where it was"


def _configuration(address: str, found: re.Match[str], said: str) -> str:
    return f"ssh does not take its configuration: {found[0].strip()}; mend it"


_CAUSES: Final[tuple[tuple[str, Callable[[str, re.Match[str], str], str]], ...]] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", _key_changed),
    (r"Host key verification failed|host key is known for", _key_unknown),
    (r"Permission denied \(([^)]*)\)", _denied),
    (r"Too many (authentication failures)", _denied),
    (r"Could not resolve hostname (\S+?):", _unresolved),
    (r"open failed: (connect failed: .*|administratively prohibited: .*)", _jump),
    (r"connect to (?:host|address) .*? port \d+: (.*)", _unreachable),
    (r"(Connection (?:timed out|closed|reset)[^\n]*(?:banner exchange|identification)[^\n]*)", _unreachable),
    (r"kex_exchange_identification: (.*)", _unreachable),
    (r"Timeout, server .* not responding", _silent),
    (r"Bad configuration option.*|terminating, \d+ bad configuration.*", _configuration),
)
"""What ssh says -> what we say; the first that fits."""
