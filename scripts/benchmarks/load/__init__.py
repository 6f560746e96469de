"""The load client: one process, one workload, one server; JSON in, JSON out.

Raw sockets, frames built beforehand, and no more parsing than counting needs, so that the server
is what is measured. It says what it used itself, beside what the server used.
"""
