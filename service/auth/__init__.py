"""Who calls, and what he may do: principals, their tokens, roles and quotas. Knows no gRPC."""
