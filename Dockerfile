# The Cellar server. VARIANT=cpu: small, no GPU. VARIANT=cuda: CUDA and cuDNN inside; the host
# brings the driver (run it with --gpus all). Each names its device: the CUDA image never serves on
# the CPU unless it is told to.
#
#   docker build --tag cellar .
#   docker run --publish 8001:8001 --volume /my/models:/models:ro cellar
#
# Sessions end with the container unless they have a volume; a new one has the rights of /data:
#
#   docker run … --volume cellar-store:/data --env CELLAR_STORE=lmdb:/data/store cellar

# What is built on. A tag can be moved, a digest cannot: for an image that you publish, ask for the
# digest, read what has changed, and pass it on.
#
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG VARIANT=cpu

# ---- the environment, made from the wheel ----
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS builder
ARG VARIANT
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY deploy/build_hook.py deploy/make-venv.sh deploy/
COPY deploy/locks deploy/locks
COPY cellar cellar
COPY models models
COPY proto proto
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip deploy/make-venv.sh "${VARIANT}" /opt/cellar

# ---- what runs ----
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS server
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Cellar" \
      org.opencontainers.image.description="Serves recurrent networks: send the next step, the server keeps the state." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# tini is process 1, so that the server is none: for process 1 the kernel ignores the signals that
# it has no handler for, and orphans are its to bury. In the image, and not an option of whoever
# runs it, because Kubernetes has no such option. Its version is that of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
# What serves installs nothing, and becomes nobody else: no pip, no program that changes its user.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
 && rm -rf /usr/local/lib/python3*/ensurepip /root/.cache \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
RUN groupadd --gid 10001 cellar \
 && useradd --uid 10001 --gid cellar --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin cellar \
 && install --directory --owner=cellar --group=cellar --mode=0700 /data
COPY --from=builder /opt/cellar /opt/cellar
# The small trained models are served until a folder of models is mounted over them.
COPY models/zoo /models
# ORT_DISABLE_TELEMETRY: ONNX Runtime's own wheels report home unless told not to.
ENV PATH=/opt/cellar/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    CELLAR_HOST=0.0.0.0 \
    CELLAR_PORT=8001 \
    CELLAR_METRICS_PORT=9090 \
    CELLAR_MODELS=/models \
    CELLAR_LOG_FORMAT=json \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/cellar
# By its number, so that Kubernetes sees that it is not root's. It can write to /data and /tmp
# alone: the root of the container may be read-only.
USER 10001:10001
# gRPC; metrics and probes
EXPOSE 8001 9090
STOPSIGNAL SIGTERM
# Neither this nor the start wants a shell. The check reads the server's own variables: set what
# concerns address and TLS by variables, and not by flags, so that it knows them too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "service.healthcheck"]
ENTRYPOINT ["tini", "--", "cellar-serve"]

# ---- where it runs ----
FROM server AS cpu
ENV CELLAR_DEVICE=cpu

FROM server AS cuda
ENV CELLAR_DEVICE=cuda:0

# hadolint ignore=DL3006
FROM ${VARIANT}
