"""The two applications of ``python -m trio_gateway``: chat and notifications."""
