#!/bin/sh
# Makes the environment that the image holds: make-venv.sh cpu|cuda TARGET
# Run from the root of the sources. The image is built with it, and so is its rehearsal without a
# container engine (deploy/replay.sh).
#
# Every file that is fetched has to have a hash that stands in deploy/locks, those that build our
# wheel too; `make lock` writes them. Nothing is built but our wheel.
set -eu

variant=$1
target=$2
case $variant in
  cpu) runtime=onnxruntime ;;
  cuda) runtime=onnxruntime-gpu ;;
  *) echo "make-venv.sh: variant is '$variant', not cpu or cuda" >&2; exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=${PYTHON:-python3}
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
# into PYTHON LOCK
into() {
  pip --python "$1" install --quiet --quiet --no-deps --only-binary :all: --require-hashes \
    --requirement "deploy/locks/$2.txt"
}

"$python" -m venv "$work/build"
into "$work/build/bin/python" build
# Not the client alone, which is what a wheel holds otherwise.
CELLAR_PACKAGES=server "$work/build/bin/python" -m pip --disable-pip-version-check wheel \
  --quiet --quiet --no-deps --no-build-isolation --no-index --wheel-dir "$work" .
wheel=$(echo "$work"/cellar-*.whl)

# Without pip: what is in the image serves, and installs nothing.
"$python" -m venv --without-pip "$target"
into "$target/bin/python" "$variant"
pip --python "$target/bin/python" install --quiet --quiet --no-deps --no-index "$wheel"
# A lock that lacks what the wheel asks for is found here.
pip --python "$target/bin/python" check

"$target/bin/python" - "$runtime" <<'PYTHON'
import sys
from importlib.metadata import distributions
from importlib.util import find_spec

names = {d.name.lower().replace("_", "-") for d in distributions()}
runtimes = sorted(names & {"onnxruntime", "onnxruntime-gpu"})
assert runtimes == [sys.argv[1]], f"runtimes: {runtimes}"
assert find_spec("torch") is None, "torch is in the image"
PYTHON
