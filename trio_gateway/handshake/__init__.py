"""From the first bytes of a socket to a decided upgrade: head, admission, upgrade."""
