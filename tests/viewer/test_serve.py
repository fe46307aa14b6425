"""The socket that `muse view` listens on."""

import asyncio
import contextlib
import socket

from muse_core.viewer.serve import LOOPBACK, _listening


def test_answers_do_not_wait_for_acknowledgements():
    """asyncio turns Nagle's algorithm off only where it knows that a socket is TCP's: 40 ms an answer otherwise."""

    async def accepted() -> int:
        found = asyncio.get_running_loop().create_future()

        def connected(_reader, writer):
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with contextlib.closing(_listening(0, 0)) as listener:
            port = listener.getsockname()[1]
            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(LOOPBACK, port)
                no_delay = await asyncio.wait_for(found, 30)
                writer.close()
        return no_delay

    assert asyncio.run(accepted()) != 0
