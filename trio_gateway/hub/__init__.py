"""Topics and fan-out: the hub, the broker contract and the brokers."""
