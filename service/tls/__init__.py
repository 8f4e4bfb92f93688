"""Certificates: read from files, checked, and read again when they change. Knows no transport."""
