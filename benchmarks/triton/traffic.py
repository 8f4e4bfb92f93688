"""What every caller of Triton sends, whoever made it. Standard library only."""

SEQUENCE_STEPS = 50
VOCABULARY = 26
"""Token ids sent are below this."""

__all__ = ["SEQUENCE_STEPS", "VOCABULARY"]
