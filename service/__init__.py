"""The server: engine (pure of gRPC), rpc (thin servicers), server (composition root)."""
