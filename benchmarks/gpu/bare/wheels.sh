#!/bin/bash
# Bring together what `make gpu-check` takes on a machine without a network: all wheels but torch's
# and CUDA's, which that machine has, in parts that are small enough to be carried there.
# Run it in the root of a checkout: bash benchmarks/gpu/bare/wheels.sh FOLDER [PIP]
#
# For Python 3.12; PYTHON_VERSION=3.11 and PART=45M (as split takes it) say otherwise.
set -euo pipefail

folder=${1:?usage: bash benchmarks/gpu/bare/wheels.sh FOLDER [PIP]}
pip=${2:-.venv/bin/pip}
version=${PYTHON_VERSION:-3.12}
part=${PART:-45M}
[ -f benchmarks/gpu/bare/wheels.sh ] || {
  echo "gpu-wheels: this is not the root of a checkout" >&2
  exit 2
}

all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT

# The client and the server with the runtime for GPUs, and what tests that need a card import.
"$(dirname "$pip")/python" - >"$all/requirements.txt" <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
tools = ("hypothesis", "pytest", "pytest-asyncio", "pytest-timeout")
named = [each for each in extras["dev"] if each.split(">")[0] in tools]
runtime = [each for each in extras["serve"] if each.startswith("onnxruntime-gpu")]
print(*project["dependencies"], *extras["serve-base"], *runtime, *named, sep="\n")
PYTHON

"$pip" --disable-pip-version-check download --quiet --dest "$all/wheels" \
  --requirement "$all/requirements.txt" --constraint constraints.txt --only-binary=:all: \
  --python-version "$version" --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64

mkdir -p "$folder"
rm -f "$folder"/wheels.tar.* "$folder/SHA256SUMS"
tar --create --directory "$all/wheels" . |
  split --bytes="$part" --numeric-suffixes --suffix-length=3 - "$folder/wheels.tar."
(cd "$folder" && sha256sum wheels.tar.* >SHA256SUMS)

echo "gpu-wheels: $(ls "$all/wheels" | wc -l) wheels for Python $version in" \
  "$(ls "$folder"/wheels.tar.* | wc -l) parts of at most $part, $(du -sh "$folder" | cut -f1)" \
  "in all: carry $folder to the machine, and there: make gpu-check WHEELS=$folder"
