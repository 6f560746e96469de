"""What the gateway costs beside its peers: ``scripts/bench``.

`servers` knows how each server is started, `workloads` what is asked of it, `run` starts one at a
time with a load client (`load`, a process of its own), round after round, and `table` turns the
figures into one table of medians and ratios. Everything stays on 127.0.0.1 and reads /proc: Linux.
"""
