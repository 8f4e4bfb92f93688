"""What it costs that sessions outlive the process, beside a server whose sessions do not."""
