"""What `cellar-train export` is told on the command line. Imports no torch."""

import argparse
from pathlib import Path


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Which run, and where to."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the run's folder, or the checkpoint in it"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to", type=Path, metavar="FILE.onnx", help="write this file")
    target.add_argument(
        "--models", type=Path, help="the repository to publish to (default: the run's own)"
    )
