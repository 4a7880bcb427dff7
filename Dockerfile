# The server as an image, non-root and with a root that may be read-only; docs/operations.md runs it.
#
#   docker build --target cpu --build-arg TORCH_INDEX=<the CPU index from PyTorch's page> -t gloss:cpu .
#   docker build --target cuda -t gloss:cuda .
#
# Both stand on the same slim base. PyTorch's CUDA wheels bring the CUDA libraries they run on, so an
# nvidia/cuda base would hold them twice; the driver comes from the host's container runtime.
# Tags name versions, not digests: pin the digest that your registry gives.

FROM python:3.12-slim-bookworm AS base

FROM base AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY kernels kernels
COPY server server
COPY training training
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM base AS packages
# The index that torch comes from; empty: pip's own, which has the CUDA build.
ARG TORCH_INDEX=""
WORKDIR /build
COPY constraints.txt ./
# A layer of its own: the large one, which changes when torch's version does.
RUN python -m venv --without-pip /opt/gloss \
    && pip --python /opt/gloss/bin/python install --no-cache-dir \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/gloss/bin/python install --no-cache-dir --constraint constraints.txt \
        "$(echo /wheels/*.whl)[server,traces]"

FROM packages AS packages-cpu
# Triton is larger than a CPU build of torch and is never imported without a GPU.
RUN /opt/gloss/bin/python -c "import torch; assert torch.version.cuda is None, \
'got the CUDA build of torch, expected a CPU one: --build-arg TORCH_INDEX=<the CPU index>'" \
    && rm -rf /opt/gloss/lib/python*/site-packages/triton /opt/gloss/lib/python*/site-packages/triton-*

FROM base AS runtime
# HOME and the caches of Triton and torch lie in /tmp, the one place that has to be writable. What
# Triton compiles is loaded from there: on a GPU a tmpfs has to be mounted with exec.
# Bytecode is compiled when packages are installed; at run time there is nowhere to write it.
ENV PATH=/opt/gloss/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    TRITON_CACHE_DIR=/tmp/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    GLOSS_ADDRESS=0.0.0.0:50051 \
    GLOSS_ADMIN_ADDRESS=0.0.0.0:50052 \
    GLOSS_METRICS_ADDRESS=0.0.0.0:9464
RUN groupadd --gid 10001 gloss \
    && useradd --uid 10001 --gid gloss --no-create-home --home-dir /tmp --shell /usr/sbin/nologin gloss
EXPOSE 50051 50052 9464
# The server itself is process 1: it takes SIGTERM, and waits for the one process that it starts.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["gloss", "health", "127.0.0.1:50052"]
ENTRYPOINT ["gloss"]
CMD ["serve"]

FROM runtime AS cuda
# Triton compiles the launcher of each kernel with a C compiler, at run time.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.2.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/gloss /opt/gloss
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001

# The last stage is what a build without --target makes.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/gloss /opt/gloss
USER 10001:10001
