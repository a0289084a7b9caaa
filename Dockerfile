# Two images; the role is the verb: docker run counterpoint serve | learn | collect | check /experiments
#   docker build --target serve -t counterpoint-serve .   a decision server, without the analysis libraries
#   docker build -t counterpoint .                        every role
# A server answers other machines only with keys: mount them as /run/secrets/counterpoint_keys.
# BASE is any image with Python 3.11 as `python`, the same for building and running.
ARG BASE=docker.io/library/python:3.11.11-slim-bookworm
FROM ${BASE} AS build-serve
WORKDIR /build
COPY requirements-serve.lock ./
RUN python -m venv /opt/counterpoint \
 && /opt/counterpoint/bin/pip install --no-cache-dir --require-hashes -r requirements-serve.lock
# Compiles the hot modules; compiler and Cython stay in this stage.
COPY requirements-fast.lock pyproject.toml hatch_build.py README.md LICENSE ./
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements-fast.lock
COPY engine engine
COPY docs docs
COPY policies policies
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/counterpoint/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM build-serve AS build-whole
COPY requirements.lock ./
RUN /opt/counterpoint/bin/pip install --no-cache-dir --require-hashes -r requirements.lock

FROM ${BASE} AS base
RUN groupadd --system --gid 10001 counterpoint \
 && useradd --system --uid 10001 --gid counterpoint --home-dir /var/lib/counterpoint --create-home counterpoint
COPY experiments /experiments
ENV PATH=/opt/counterpoint/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COUNTERPOINT_EXPERIMENTS=/experiments \
    COUNTERPOINT_DATA=/var/lib/counterpoint \
    COUNTERPOINT_HOST=0.0.0.0 \
    COUNTERPOINT_API_KEYS=/run/secrets/counterpoint_keys
USER counterpoint
VOLUME ["/var/lib/counterpoint"]
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=2s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=1)"]
ENTRYPOINT ["counterpoint"]
CMD ["serve"]

FROM base AS serve
COPY --from=build-serve /opt/counterpoint /opt/counterpoint

FROM base AS whole
COPY --from=build-whole /opt/counterpoint /opt/counterpoint
