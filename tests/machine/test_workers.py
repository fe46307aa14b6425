"""Local workers as detectors and people meet them."""

import getpass
import logging
import socket
import ssl
import struct
from contextlib import ExitStack, suppress

import psutil
import torch

from muse_core.machine.workers import open_workers


def test_workers_run_torch_on_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # for this process; workers make their own
    with open_workers(1) as workers:
        assert workers.executor.submit(torch.get_num_threads).result() == 1


def test_what_dask_says_on_a_worker_stays_there(capfd):
    """Such as the traceback of a heartbeat that the end of an interrupted run cuts off."""
    with open_workers(1) as workers:
        workers.executor.submit(logging.getLogger("distributed.worker").error, "no scheduler answers").result()
    assert capfd.readouterr().err == ""


def listening(process: psutil.Process) -> set[int]:
    """The ports on which a process and its children take connections."""
    processes = [process, *process.children(recursive=True)]
    found = [one for each in processes for one in each.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return {connection.laddr.port for connection in found}


def answer(port: int, sent: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """What a port says to somebody without this run's certificate; nothing where it hangs up or is silent."""
    with suppress(OSError), ExitStack() as stack:
        wire = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
        if tls is not None:
            wire = stack.enter_context(tls.wrap_socket(wire))
        wire.sendall(sent)
        return wire.recv(1000)
    return b""


def test_nobody_else_has_code_run_by_the_workers():
    before = listening(psutil.Process())
    with open_workers(1) as workers:
        assert workers.executor.submit(getpass.getuser).result() == getpass.getuser()
        ports = listening(psutil.Process()) - before
        assert len(ports) >= 3, "scheduler, nanny and worker"
        pages = [answer(port, b"GET /info/main/workers.html HTTP/1.0\r\n\r\n") for port in ports]
        assert all(page == b"" or page.startswith(b"HTTP/1.1 404") for page in pages)
        hello = struct.pack("<QQ", 1, 8) + b"\x80" * 8  # a frame of Dask's protocol
        assert [answer(port, hello, ssl._create_unverified_context()) for port in ports] == [b""] * len(ports)
        assert not any(answer(port, hello).startswith(b"\x01") for port in ports)
