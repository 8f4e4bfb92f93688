"""The engine: sessions, slots, scheduling, batches. Knows neither gRPC nor protobuf."""
