"""The rules of streams, whatever waits for their answers."""
