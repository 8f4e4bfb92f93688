#!/bin/sh
# Makes the environment that the image holds: make-venv.sh cpu|cuda TARGET
# Run from the root of the sources. The image is built with it, and so is its rehearsal without a
# container engine (deploy/replay.sh).
set -eu

variant=$1
target=$2
case $variant in
  cpu) extras=serve-cpu runtime=onnxruntime ;;
  cuda) extras=serve,cuda runtime=onnxruntime-gpu ;;
  *) echo "make-venv.sh: variant is '$variant', not cpu or cuda" >&2; exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pip() { "${PYTHON:-python3}" -m pip --disable-pip-version-check "$@"; }

# Not the client alone, which is what a wheel holds otherwise.
CELLAR_PACKAGES=server pip wheel --quiet --quiet --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/cellar-*.whl)
# Without pip: what is in the image serves, and installs nothing.
"${PYTHON:-python3}" -m venv --without-pip "$target"
pip --python "$target/bin/python" install --quiet --quiet --constraint constraints.txt \
  "cellar[$extras] @ file://$wheel"
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
