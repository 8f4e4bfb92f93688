"""Lives of sessions in any order, each against a plain model."""
