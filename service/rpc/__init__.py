"""gRPC: decode, call the engine, encode. The only place that knows the wire."""
