"""The runner on the CPU."""
