"""The journal: numbered groups in segment files, which are written once and forgotten whole.

Knows nothing of LMDB, nor of what is in a group.
"""
