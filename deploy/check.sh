#!/bin/sh
# Lints what deploys Cellar: check.sh BIN, where BIN holds the linters (the extra `deploy`).
set -eu
cd "$(dirname "$0")/.."
bin=$1

if [ -x "$bin/hadolint" ]; then
  "$bin/hadolint" Dockerfile
  echo "Dockerfile: ok"
else
  echo "Dockerfile: NOT linted: there is no hadolint for this platform"
fi
for script in deploy/*.sh; do sh -n "$script"; done
"$bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/docker-compose.yml
echo "docker-compose.yml: ok"
"$bin/kubernetes-validate" --quiet --strict deploy/kubernetes.yaml
echo "kubernetes.yaml: ok"
