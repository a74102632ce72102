# syntax=docker/dockerfile:1
# The server of docs/serving.md on a CPU, for a user without rights and a read-only root file system.
FROM python:3.12-slim-bookworm AS build

# torch for CPUs, from the index that has such builds; an empty TORCH_INDEX takes the default one.
ARG TORCH="torch torchvision"
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Unquoted, because TORCH may have several requirements.
# hadolint ignore=DL3013,SC2086
RUN python -m venv /opt/upernet \
    && /opt/upernet/bin/pip install ${TORCH} ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}
WORKDIR /source
COPY pyproject.toml README.md LICENSE LICENSE-WEIGHTS ./
COPY src src
COPY examples examples
RUN /opt/upernet/bin/pip install '.[serve,heic]'

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/cache/upernet --shell /usr/sbin/nologin upernet \
    && install --directory --owner upernet --group upernet /var/cache/upernet
COPY --from=build /opt/upernet /opt/upernet
# Compiled kernels and downloaded models; a volume keeps them. The rest of the file system may be read-only but for /tmp.
ENV PATH=/opt/upernet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/upernet/numba \
    XDG_CACHE_HOME=/var/cache/upernet \
    HF_HOME=/var/cache/upernet/huggingface
USER 10001:10001
WORKDIR /var/cache/upernet
VOLUME /var/cache/upernet
EXPOSE 8000
STOPSIGNAL SIGTERM
# Not urllib, which would ask a proxy where http_proxy is set.
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 CMD ["python", "-c", "import sys, http.client; server = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); server.request('GET', '/ready'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["upernet", "serve", "--host", "0.0.0.0", "--no-browser", "--log", "json"]
