# docker build -t quartet .
# By default pip takes the package index's torch, which carries CUDA and serves on a CPU too. With TORCH_INDEX_URL set to
# torch's index of CPU wheels (its install page names it) the image is a fraction of that size.
# EXTRAS are the package's own, comma between; langid (96 MB) is what `source: auto` needs, hub what downloads need, otel
# what traces need.
# COMPILER are Debian packages for the last stage, by default none: `--build-arg COMPILER="gcc libc6-dev"` is what
# Triton needs at run time, where a GPU's kernels are compiled; Python's headers are in the base image.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX_URL=
ARG EXTRAS=hub,langid,otel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# for the kernels. Debian's mirrors keep one version of a package only, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/quartet
WORKDIR /src
# the dependencies first, out of their own layer: they change seldom
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir app model && touch app/__init__.py model/__init__.py \
    && /opt/quartet/bin/pip install -c constraints.txt \
       ${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL} ".${EXTRAS:+[$EXTRAS]}" \
    && /opt/quartet/bin/pip uninstall -y quartet
COPY app app
COPY model model
RUN rm -rf build ./*.egg-info \
    && /opt/quartet/bin/pip install --no-deps -c constraints.txt . \
    && /opt/quartet/bin/python -m compileall -q /opt/quartet/lib/python*/site-packages/app /opt/quartet/lib/python*/site-packages/model

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="quartet" \
      org.opencontainers.image.description="One engine that serves every Transformer task" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG COMPILER=
# hadolint ignore=DL3008,SC2086
RUN if [ -n "$COMPILER" ]; then \
      apt-get update && apt-get install -y --no-install-recommends $COMPILER && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /opt/quartet /opt/quartet
# what is fetched or compiled once and kept; a volume takes over the owner
RUN install -d -o 10001 -g 10001 /cache
VOLUME /cache
ENV PATH=/opt/quartet/bin:$PATH \
    QUARTET_CACHE_DIR=/cache \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["quartet", "serve", "--host", "0.0.0.0", "--port", "8000"]
