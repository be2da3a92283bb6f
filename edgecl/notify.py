"""Telling systemd how the service is: one datagram to the socket that it names in the environment.

Outside of systemd there is no such socket, and nothing is told. What the messages mean is in sd_notify(3).
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"


class Notifier:
    """Sends messages to the service manager. It never raises: a service does not end because nobody listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get(SOCKET, "")
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())  # another process's is not ours
        given = environment.get(WATCHDOG, "")
        self.watchdog_s = int(given) / 1e6 if own and given.isdecimal() else 0.0
        """Seconds within which `alive` has to be called again, or the service is killed; 0 for no watchdog."""

    def ready(self) -> bool:
        """The service has started."""
        return self.send("READY=1")

    def status(self, text: str) -> bool:
        """One line that `systemctl status` shows."""
        return self.send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> bool:
        """The loop has made progress. Call it from the loop itself: a thread that calls it proves nothing."""
        return self.send("WATCHDOG=1")

    def allow(self, seconds: float) -> bool:
        """From now on, so much time may pass between two calls of `alive`; for a step that is known to be long."""
        self.watchdog_s = seconds
        return self.send(f"WATCHDOG_USEC={round(seconds * 1e6)}")

    def stopping(self) -> bool:
        """The service is about to end."""
        return self.send("STOPPING=1")

    def send(self, message: str) -> bool:
        """Whether the message was delivered."""
        if not self._address.startswith(("/", "@")):
            return False
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address  # an abstract socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that does not read must not stop the loop
                sender.sendto(message.encode(), address)
        except OSError:
            return False
        return True
