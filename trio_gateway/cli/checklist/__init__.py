"""The checklist of a working gateway: what ``verify`` runs.

In: a live gateway's URL and perhaps its API token. Out: for each check a detail, a failure, or the
reason it was skipped. The rules: only that gateway is contacted, in rooms and for users with names
of this run alone, and every check has a deadline.
"""
