#!/bin/bash
# Check the GPU path on a bare machine: a driver, Python, torch with CUDA's wheels, no network.
# Run it in the root of a checkout: bash benchmarks/gpu/bare/check.sh WHEELS_FOLDER [--quick]
#
# WHEELS_FOLDER is what `make gpu-wheels` made, or holds wheels as they are; of a package that is
# there in both forms the wheel counts. They are installed into a folder of their own, which goes
# in the end. What is found lies in $OUT, too.
set -u

usage() {
  echo "gpu-check: $1 (usage: bash benchmarks/gpu/bare/check.sh WHEELS_FOLDER [--quick])" >&2
  exit 2
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage "it takes the folder with the wheels"
[ -z "${2:-}" ] || [ "$2" = --quick ] || usage "what is $2?"
[ -f benchmarks/gpu/bare/check.sh ] || usage "this is not the root of a checkout"
compgen -G "$1/*.whl" >/dev/null || compgen -G "$1/wheels.tar.*" >/dev/null ||
  usage "there are no wheels in $1"

python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$out" "$site/wheels" "$site/packages"
export PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1

if compgen -G "$1/wheels.tar.*" >/dev/null; then
  # A part that did not arrive, or not whole, is named.
  (cd "$1" && sha256sum --check --quiet SHA256SUMS) || {
    echo "gpu-check: the parts of the wheels in $1 are not whole" >&2
    exit 3
  }
  cat "$1"/wheels.tar.* | tar --extract --directory "$site/wheels" || exit 3
fi
for wheel in "$1"/*.whl; do
  [ -f "$wheel" ] || continue
  name=$(basename "$wheel")
  rm -f "$site/wheels/${name%%-*}"-*.whl
  cp "$wheel" "$site/wheels"
done

"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
  --disable-pip-version-check --root-user-action=ignore \
  --target "$site/packages" "$site/wheels"/*.whl || {
  echo "gpu-check: the wheels cannot be installed" >&2
  exit 3
}
rm -rf "$site/wheels"
export PYTHONPATH=$PWD:$site/packages${PYTHONPATH:+:$PYTHONPATH}

# ONNX Runtime looks for CUDA's libraries beside itself; they lie beside torch.
libraries=$("$python" -c '
import glob, site, sys
folders = {*site.getsitepackages(), *sys.path}
print(":".join(found for folder in folders for found in glob.glob(folder + "/nvidia/*/lib")))')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

missing=$("$python" -c '
from importlib.util import find_spec
names = "google.rpc grpc grpc_health grpc_reflection grpc_status h11 hypothesis lmdb numpy onnx"
names += " onnxruntime prometheus_client pydantic pytest pytest_asyncio pytest_timeout rich shtab"
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

# The check keeps to its own time; this is for what hangs in a driver.
timeout --kill-after=10 "${LIMIT_S:-470}" "$python" -m benchmarks.gpu ${2:+"$2"} \
  >"$out/check.out" 2> >(tee "$out/check.log" >&2)
status=$?
cat "$out/check.out"
[ $status -lt 124 ] || echo "gpu-check: it hung, and was ended" >&2
exit $status
