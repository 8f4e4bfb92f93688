"""The synchronous client: `cellar.connect`. Most of it is generated from `cellar.aio`."""
