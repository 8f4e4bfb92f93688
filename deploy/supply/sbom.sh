#!/bin/sh
# Writes build/sbom-VARIANT.json: sbom.sh BIN cpu|cuda, where BIN holds cyclonedx-py (the extra
# `supply`). It is made of the environment that the image gets; the base image is not in it.
set -eu
cd "$(dirname "$0")/../.."
bin=$1
variant=$2
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT

deploy/make-venv.sh "$variant" "$room/venv"
mkdir -p build
"$bin/cyclonedx-py" environment --pyproject pyproject.toml --mc-type application \
  --output-reproducible --of JSON --output-file "build/sbom-$variant.json" "$room/venv/bin/python"
echo "build/sbom-$variant.json: $(grep -c '"purl"' "build/sbom-$variant.json") packages"
