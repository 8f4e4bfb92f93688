"""Several steps of each row in one replay: of what callers give, or of what the model draws."""
