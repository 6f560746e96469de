"""The plain-HTTP side of the port: responder, API, health."""
