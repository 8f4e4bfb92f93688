"""What a client shows a server, and what it asks of it: TLS, certificates, tokens, headers."""
