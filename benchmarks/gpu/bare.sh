#!/bin/bash
# Check the GPU path on a bare machine: a driver, Python, torch with CUDA's wheels, no network.
# Run it in the root of a checkout: bash benchmarks/gpu/bare.sh WHEELS_FOLDER [--quick]
#
# What the machine lacks is installed from the wheels into a folder of its own, which goes in the
# end. Results lie in $OUT. Each part says how it ended, and one that failed fails the whole.
set -u

usage() {
  echo "gpu-check: $1 (usage: bash benchmarks/gpu/bare.sh WHEELS_FOLDER [--quick])" >&2
  exit 2
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage "it takes the folder with the wheels"
[ -z "${2:-}" ] || [ "$2" = --quick ] || usage "what is $2?"
[ -f benchmarks/gpu/bare.sh ] || usage "this is not the root of a checkout"
compgen -G "$1/*.whl" >/dev/null || usage "there are no wheels in $1"

python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$out"
export PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1

"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
  --target "$site" "$1"/*.whl || { echo "gpu-check: the wheels cannot be installed" >&2; exit 3; }
export PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH}

# ONNX Runtime looks for CUDA's libraries beside itself; they lie beside torch.
libraries=$("$python" -c '
import glob, site, sys
folders = {*site.getsitepackages(), *sys.path}
print(":".join(found for folder in folders for found in glob.glob(folder + "/nvidia/*/lib")))')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

missing=$("$python" -c '
from importlib.util import find_spec
names = "google.rpc grpc grpc_health grpc_reflection grpc_status numpy onnx onnxruntime"
names += " prometheus_client pydantic pytest pytest_asyncio pytest_timeout rich"
names += " structlog torch uvloop"
def absent(name):
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:
        return True
print(*filter(absent, names.split()))') || exit 3
if [ -n "$missing" ]; then
  echo "gpu-check: the machine and the wheels lack $missing" >&2
  exit 3
fi

failed=
part() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  timeout "$limit" "$@" >"$out/$name.out" 2>"$out/$name.log"
  status=$?
  echo "$name: status $status after $((SECONDS - began)) s"
  if [ $status -ne 0 ]; then
    failed+=" $name"
    tail -n 1 "$out/$name.log"
  fi
}

part check 150 "$python" -m benchmarks.gpu ${2:+"$2"}
cat "$out/check.out"
# Not all tests: to collect the others takes packages that a GPU has no use for.
part tests 200 "$python" -m pytest -m gpu -q -p no:cacheprovider --tb=short \
  tests/gpu tests/service/engine/execution/cuda
grep -E '^(FAILED|ERROR)|passed|failed|no tests ran' "$out/tests.out" | tail -n 30
part bench 120 "$python" -m benchmarks --quick --only frames --serve-flag=--device=cuda:0
cat "$out/bench.log"
# The benchmark ends well whatever it could not measure, and says so in its result.
if ! grep -q '"frames_cpu_ratio_2x128": [0-9]' "$out/bench.out"; then
  echo "bench: frames were not measured"
  failed+=" bench"
fi

echo "results: $out"
[ -z "$failed" ] || { echo "gpu-check: failed:$failed" >&2; exit 1; }
