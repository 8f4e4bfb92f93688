"""HTTP beside gRPC: probes and metrics, on a port and a thread of their own."""
