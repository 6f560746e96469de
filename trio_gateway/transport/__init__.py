"""Bytes in, bytes out: listeners, the sources that read sockets, the outbox that writes them."""
