"""What a comparison of cells is told on the command line."""

import argparse

from training.settings import Cell


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which cells, how many networks of each, and what becomes of the best."""
    parser.add_argument(
        "--cells", default=",".join(Cell), help="cells to compare (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="networks of each cell; 3 tell how much is luck"
    )
    parser.add_argument(
        "--publish", action="store_true", help="publish the best network of the winning cell"
    )
