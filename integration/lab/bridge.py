"""Carries TCP connections between two network namespaces over a Unix socket, which has no namespace.

    bridge.py LISTEN TARGET      each is tcp:ADDRESS:PORT or unix:PATH

One bridge inside a namespace listens at the address of something outside of it, a second one outside connects to it.
"""

import asyncio
import os
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side ended: so does the other
    finally:
        writer.close()


async def connect(target):
    kind, place = target.split(":", 1)
    if kind == "unix":
        return await asyncio.open_unix_connection(place)
    address, port = place.rsplit(":", 1)
    return await asyncio.open_connection(address, int(port))


async def serve(listen, target):
    async def accepted(reader, writer):
        try:
            far_reader, far_writer = await connect(target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    kind, place = listen.split(":", 1)
    if kind == "unix":
        server = await asyncio.start_unix_server(accepted, place)
    else:
        address, port = place.rsplit(":", 1)
        server = await asyncio.start_server(accepted, address, int(port))
    async with server:
        await server.serve_forever()


def into(lab, host, address, port):
    """Makes ADDRESS:PORT, as it is outside of the lab, reachable inside one host under the same name."""
    path = os.path.join(lab.folder, f"bridge-{port}")
    me = os.path.abspath(__file__)
    if not address.startswith("127."):
        host.address("lo", f"{address}/32")
    lab.spawn([sys.executable, me, f"unix:{path}", f"tcp:{address}:{port}"])
    host.spawn([sys.executable, me, f"tcp:{address}:{port}", f"unix:{path}"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
