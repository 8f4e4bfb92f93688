"""Tests of the client, against a fake server on a real port."""
