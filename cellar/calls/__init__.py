"""Requests: what is asked, and how it is tried again. Knows no threads or event loops."""
