#!/bin/sh
# Rehearses the image without a container engine: replay.sh [cpu|cuda]
#
# In an empty folder: the sources that .dockerignore lets through, the environment that
# make-venv.sh makes, the zoo as the models, then the Dockerfile's ENV, ENTRYPOINT, HEALTHCHECK and
# STOPSIGNAL. For root, on Linux, as the image's user too, without capabilities, without a shell,
# and with a root that is read-only but for /tmp and the store. It cannot show the base image, nor
# what is installed in it.
set -eu
cd "$(dirname "$0")/.."
variant=${1:-cpu}
room=$(mktemp -d /var/tmp/cellar.XXXXXX)
server=
cleanup() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$room"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir -p "$room/src/deploy" "$room/data"
cp -R pyproject.toml constraints.txt LICENSE README.md cellar models proto service training \
  "$room/src"
cp -R deploy/build_hook.py deploy/make-venv.sh deploy/locks "$room/src/deploy"
find "$room/src" -name __pycache__ -type d -prune -exec rm -rf {} +
cp -R models/zoo "$room/models"

(cd "$room/src" && deploy/make-venv.sh "$variant" "$room/venv")
rm -rf "$room/src"
echo "environment ($variant): $(du -sh "$room/venv" | cut -f1)"

ports=$("$room/venv/bin/python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))')
{
  # The Dockerfile's own, then what differs here: a later one wins.
  sed -n '/^ENV PATH=/,/[^\\]$/p' Dockerfile | tr -d '\\' | tr -s ' ' '\n' | grep '^[A-Z_]*=' |
    grep -v '^PATH='
  sed -n "/ AS $variant\$/,/^\$/s/^ENV //p" Dockerfile
  echo "HOME=/nonexistent"
  echo "PATH=$room/venv/bin:/usr/bin:/bin"
  echo "CELLAR_HOST=127.0.0.1"
  echo "CELLAR_PORT=${ports% *}"
  echo "CELLAR_METRICS_PORT=${ports#* }"
  echo "CELLAR_MODELS=$room/models"
  echo "CELLAR_STORE=lmdb:$room/data/store"
} > "$room/environment"

# What the examples ask of a container's host: see docker-compose.yml and kubernetes/.
cat > "$room/confine" <<'CONFINE'
set -eu
room=$1
python=$2
shift 2
case $python in
  /root/*) # which is closed to others
    mkdir -p "$room/python"
    mount --bind "$python" "$room/python"
    mount -t tmpfs -o mode=755 cellar-root /root
    mkdir -p "$python"
    mount --bind "$room/python" "$python"
    ;;
esac
mount --bind "$room/data" "$room/data"
mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 cellar-tmp /tmp
for shell in sh dash bash; do
  path=$(readlink -f "$(command -v $shell)") || continue
  [ ! -f "$path" ] || mount --bind /dev/null "$path"
done
mount -o bind,remount,ro /
if touch "$room/written" 2> /dev/null; then
  echo "replay.sh: the root can be written to" >&2
  exit 1
fi
exec setpriv --reuid=10001 --regid=10001 --clear-groups --bounding-set=-all --no-new-privs "$@"
CONFINE
if [ "$(id -u)" = 0 ] && unshare --mount true 2> /dev/null && command -v setpriv > /dev/null; then
  chmod 755 "$room"
  chown -R 10001:10001 "$room/data"
  base=$("$room/venv/bin/python" -c 'import sys; print(sys.base_prefix)')
  confined="unshare --mount sh $room/confine $room $base"
  echo "as user 10001, read-only, without capabilities and without a shell"
else
  confined=
  echo "not root here, or no namespaces: rehearsed as this user, and nothing is read-only"
fi
# No path of this script holds a space: mktemp makes them.
inside="$confined env -i $(tr '\n' ' ' < "$room/environment")"

# ENTRYPOINT ["a", "b"] as words: none of them holds a space. An init that is not on this machine
# is left out.
entrypoint=$(sed -n 's/^ENTRYPOINT \[\(.*\)\]$/\1/p' Dockerfile | tr -d '",')
case $entrypoint in
  "tini -- "*)
    command -v tini > /dev/null || {
      entrypoint=${entrypoint#tini -- }
      echo "no tini here: rehearsed without it"
    }
    ;;
esac
[ -n "$entrypoint" ] || {
  echo "replay.sh: the Dockerfile has no ENTRYPOINT" >&2
  exit 1
}

if [ -n "$confined" ] && $inside sh -c true 2> /dev/null; then
  echo "replay.sh: there is a shell" >&2
  exit 1
fi

cd "$room/venv"
if [ "$variant" = cuda ] && [ ! -e /proc/driver/nvidia ]; then
  if $inside $entrypoint > "$room/log" 2>&1; then
    echo "replay.sh: without a GPU the CUDA image serves" >&2
    exit 1
  fi
  grep -- "cellar-serve: --device cuda:0: " "$room/log"
  echo "without a GPU it is refused, as it must be; nothing else of it can be seen here"
  exit 0
fi
$inside $entrypoint > "$room/log" 2>&1 &
server=$!
tries=0
until $inside python -m service.healthcheck > "$room/health" 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -gt 60 ] || ! kill -0 "$server" 2>/dev/null; then
    echo "replay.sh: the server did not become healthy; its log and the check's:" >&2
    tail -n 40 "$room/log" "$room/health" >&2
    exit 1
  fi
  sleep 0.5
done
echo "healthy"

$inside python -c '
import os, urllib.request
url = "http://127.0.0.1:{}/".format(os.environ["CELLAR_METRICS_PORT"])
for path, word in (("livez", b"ok"), ("readyz", b"true"), ("metrics", b"cellar_")):
    assert word in urllib.request.urlopen(url + path, timeout=5).read(), path'
echo "livez, readyz, metrics: ok"
$inside python - <<'PYTHON'
import os
import sys

import grpc
from cellar.v1 import model_pb2, model_pb2_grpc

with grpc.insecure_channel("127.0.0.1:" + os.environ["CELLAR_PORT"]) as channel:
    reply = model_pb2_grpc.ModelServiceStub(channel).ListModels(
        model_pb2.ListModelsRequest(), timeout=10
    )
names = sorted(model.name for model in reply.models)
wanted = sorted(entry for entry in os.listdir(os.environ["CELLAR_MODELS"]) if entry[0].isalnum())
if not names or not set(names) <= set(wanted):
    sys.exit(f"replay.sh: the server lists {names}; its folder holds {wanted}")
print("models:", ", ".join(names))
PYTHON

kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
if [ "$status" -ne 0 ]; then
  echo "replay.sh: on SIGTERM the server ended with status $status; its log:" >&2
  tail -n 40 "$room/log" >&2
  exit 1
fi
if $inside python -m service.healthcheck > /dev/null 2>&1; then
  echo "replay.sh: the health check passes without a server" >&2
  exit 1
fi
echo "stopped on SIGTERM (status $status)"
