#!/bin/sh
# Writes deploy/locks anew: lock.sh BIN, where BIN holds uv (the extra `supply`).
#
# The versions are those of constraints.txt; each hash is what the package index says of a file.
# build.txt is what builds our own wheel, cpu.txt and cuda.txt are what the images hold beside it.
set -eu
cd "$(dirname "$0")/../.."
bin=$1
mkdir -p deploy/locks

# lock NAME INPUT [FLAG ...]
lock() {
  name=$1
  shift
  {
    echo "# Written by make lock: every file that may be fetched, by its hash."
    "$bin/uv" pip compile "$@" --constraint constraints.txt --generate-hashes --universal \
      --python-version 3.11 --no-config --no-header --no-annotate --quiet
  } > "deploy/locks/$name.new"
  mv "deploy/locks/$name.new" "deploy/locks/$name.txt"
  echo "deploy/locks/$name.txt: $(grep -c == "deploy/locks/$name.txt") packages"
}

lock cpu pyproject.toml --extra serve-cpu
lock cuda pyproject.toml --extra serve --extra cuda
sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml > deploy/locks/build.in
lock build deploy/locks/build.in
rm deploy/locks/build.in
