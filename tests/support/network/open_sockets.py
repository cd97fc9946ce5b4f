"""What a test can tell of a socket without waiting."""

import socket


def still_open(connection: socket.socket) -> bool:
    """Tell whether the peer has neither closed nor reset the connection, nor said anything."""
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        connection.settimeout(timeout)
    return False
