#!/bin/sh
# Lints what deploys Cellar: check.sh BIN, where BIN holds the linters (the extra `deploy`).
set -eu
cd "$(dirname "$0")/.."
bin=$1
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT

if [ -x "$bin/hadolint" ]; then
  "$bin/hadolint" Dockerfile
  echo "Dockerfile: ok"
else
  echo "Dockerfile: NOT linted: there is no hadolint for this platform"
fi
for script in deploy/*.sh deploy/*/*.sh; do sh -n "$script"; done
for file in deploy/docker-compose*.yml; do
  "$bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec "$file"
done
echo "docker-compose: ok"

# Strict: what the schema does not know is an error. ServiceMonitors are not Kubernetes' own, and
# have no schema here.
if command -v kubectl > /dev/null; then build="kubectl kustomize"
elif command -v kustomize > /dev/null; then build="kustomize build"
else build=; fi
if [ -n "$build" ]; then
  for folder in deploy/kubernetes/base deploy/kubernetes/overlays/*; do
    $build "$folder" > "$room/$(basename "$folder").yaml"
  done
  "$bin/kubernetes-validate" --quiet --strict "$room"/*.yaml
  echo "kubernetes: ok"
else
  find deploy/kubernetes/base -name '*.yaml' ! -name kustomization.yaml \
    -exec "$bin/kubernetes-validate" --quiet --strict {} +
  echo "kubernetes: base ok; overlays NOT checked: there is neither kubectl nor kustomize here"
fi
