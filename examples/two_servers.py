"""A session goes from one server to another: ``python -m examples.two_servers``.

A snapshot is a copy: where it is taken and put into another server, both could go on, and it is for
you to close the one that is left. ``cellar move`` makes a move of that: at every moment one of the
two servers answers for the session, whatever crashes, and it can be run again until it is done.
"""

import subprocess
import sys

import cellar
from examples.serving import COMMANDS, ZOO, served

READ = "def test_"


def main() -> int:
    with (
        served(ZOO) as here,
        served(ZOO) as there,
        cellar.connect(here) as client,
        cellar.connect(there) as other,
    ):
        with client.session("stdlib-text") as staying:
            staying.step(READ)
            expected = written(staying)
        print(f"a session that stays: {expected!r}")
        print(f"one that was carried: {carried(client, other)!r}")
        assert carried(client, other) == expected
        if has_command("move"):
            found = moved(client, other, here, there)
            print(f"one that has moved:   {found!r}")
            assert found == expected
    return 0


def written(session: cellar.Session) -> str:
    """What a session writes next."""
    return session.generate(max_steps=60, temperature=0.7, seed=3).text()


def carried(client: cellar.Client, other: cellar.Client) -> str:
    """How a session goes on elsewhere that was exported here, imported there, and closed here."""
    with client.session("stdlib-text", id="carried") as session:
        session.step(READ)
        snapshot = session.export()
    with other.import_session(snapshot) as again:  # it has its id, and stands where it stood
        return written(again)


def moved(client: cellar.Client, other: cellar.Client, here: str, there: str) -> str:
    """How a session goes on elsewhere that ``cellar move`` has taken there."""
    client.session("stdlib-text", id="moved").step(READ)
    run = (str(COMMANDS / "cellar"), "move", "moved", "--to", there, "--server", here)
    subprocess.run(run, check=True)
    with other.attach("moved") as again:
        return written(again)


def has_command(name: str) -> bool:
    """Whether this version of ``cellar`` has a command."""
    asked = subprocess.run(
        [str(COMMANDS / "cellar"), name, "--help"], capture_output=True, check=False
    )
    return asked.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
