"""What the engine works on: steps in columns, and whom to answer."""
