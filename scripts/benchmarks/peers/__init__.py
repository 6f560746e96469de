"""The servers to compare with: one a file, each as its users would write it for speed.

``python -m benchmarks.peers.NAME echo|broadcast [CERTIFICATE KEY]`` binds 127.0.0.1 on a free
port, prints ``listening on http://127.0.0.1:PORT`` and serves until it is killed. ``echo`` sends
each message back; ``broadcast`` sends it to every connection, the sender's too. Given two PEM
files, those that know TLS speak it. Nowhere compression, nowhere keep-alive pings: those would cost
the peer, not us.
"""
