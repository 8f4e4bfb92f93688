"""Sessions that go on with another version of their model."""
