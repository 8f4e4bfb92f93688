"""The log: what sessions have read, so that they outlive the process."""
