"""A client that others wrote talks to the agent: smpclient, over a serial line, in lines of text."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_host.client import Client
from firmware_host.links.table import link_to
from tests.firmware_host.wires import agent_on, wired

smpclient = pytest.importorskip("smpclient", reason="the client of others: pip install 'smpclient[serial]'")
serial = pytest.importorskip("smpclient.transport.serial.encoded")
files = pytest.importorskip("smpclient.requests.file_management")
system = pytest.importorskip("smpclient.requests.os_management")


def with_client(store: Path, work: Callable[[Any], Awaitable[None]], *, ours_first: bool = False) -> None:
    async def run(port: Path) -> None:
        async with smpclient.SMPClient(serial.SMPSerialTransport(), str(port), timeout_s=20) as client:
            await work(client)

    with wired(store.parent) as wire, agent_on(wire, store):
        if ours_first:
            client = Client(link_to(f"serial:{wire.port}"))
            client.connect()
            assert client._session
            client._session._connection.close()  # without a word to the board
        asyncio.run(run(wire.port))


@pytest.mark.parametrize("ours_first", [False, True])
def test_it_is_echoed_and_uploads_and_downloads(store: Path, ours_first: bool) -> None:
    data = random.Random(1).randbytes(40_000)
    digest = hashlib.sha256(data)
    name = f"objects/{digest.hexdigest()}"

    async def work(client: Any) -> None:
        assert (await client.request(system.EchoWrite(d="grüße"))).r == "grüße"
        offsets = [offset async for offset in client.upload_file(data, name)]
        assert offsets[-1] == len(data) and len(offsets) < 8
        assert (store / name).read_bytes() == data
        assert await client.download_file(name) == data
        assert (await client.request(files.FileStatus(name=name))).len == len(data)
        assert (await client.request(files.FileHashChecksum(name=name))).output == digest.digest()
        crc = await client.request(files.FileHashChecksum(name=name, type="crc32", off=1, len=9))
        assert (crc.type, crc.off, crc.len) == ("crc32", 1, 9) and isinstance(crc.output, int)
        assert set((await client.request(files.SupportedFileHashChecksumTypes())).types) == {"sha256", "crc32"}

    with_client(store, work, ours_first=ours_first)


def test_its_upload_goes_on_where_another_stopped(store: Path) -> None:
    data = random.Random(2).randbytes(30_000)
    sha256 = hashlib.sha256(data).hexdigest()
    (store / "objects").mkdir()
    (store / "objects" / f"{sha256}.part").write_bytes(data[:25_000])

    async def work(client: Any) -> None:
        offsets = [offset async for offset in client.upload_file(data, f"objects/{sha256}")]
        assert offsets == [25_000, 30_000]

    with_client(store, work)
    assert (store / "objects" / sha256).read_bytes() == data


def test_it_understands_refusals(store: Path) -> None:
    async def work(client: Any) -> None:
        refused = await client.request(files.FileStatus(name="/etc/passwd"))
        assert refused.rc == 5 and "no file that is given away" in refused.rsn
        assert (await client.request(system.DateTimeRead())).rc == 8

    with_client(store, work)
