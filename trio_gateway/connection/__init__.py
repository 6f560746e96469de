"""Frames and messages: the codec, the heartbeat and the connection."""
