"""The rules of sessions, whatever waits for their answers."""
