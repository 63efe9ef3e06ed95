# The server's image: `docker build -t privacy-ledger .`
#
# One stage builds the documentation, another the environment. The third has Python, that environment, and no tools to
# build with. It runs as a user without rights, writes nothing to its own file system (run it with --read-only), and
# keeps no state: the database is elsewhere. `migrate` and `init` are runs of their own with the owner's URL; the server
# never has it.
#
# The base is an exact image, so that what is built tomorrow is what was built today. For a newer one, take tag and digest
# together: docker buildx imagetools inspect python:3.13-slim-trixie
ARG PYTHON=3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
FROM python:${PYTHON} AS docs

WORKDIR /src
COPY requirements-docs.lock ./
RUN python -m venv /opt/docs \
 && /opt/docs/bin/pip install --no-cache-dir --require-hashes --requirement requirements-docs.lock
COPY mkdocs.yml README.md SECURITY.md CONTRIBUTING.md CHANGELOG.md ./
COPY ledger ledger
COPY guide guide
COPY docs docs
RUN /opt/docs/bin/python -m guide

FROM python:${PYTHON} AS build

WORKDIR /src
COPY requirements.lock ./
RUN python -m venv --copies /opt/ledger \
 && /opt/ledger/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY ledger ledger
COPY migrations migrations
COPY --from=docs /src/ledger/site ledger/site
# Not editable: the environment is all that goes on. What only builds leaves it again.
RUN /opt/ledger/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/ledger/bin/pip uninstall --yes hatchling editables trove-classifiers pathspec pluggy pip \
 && /opt/ledger/bin/python -m compileall -q /opt/ledger/lib

FROM python:${PYTHON}

RUN groupadd --system --gid 10001 ledger \
 && useradd --system --uid 10001 --gid ledger --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ledger \
 && install --directory --owner=ledger --group=ledger --mode=700 /var/lib/privacy-ledger
COPY --from=build /opt/ledger /opt/ledger
ENV PATH=/opt/ledger/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LEDGER_HOST=0.0.0.0 \
    LEDGER_LOG_FORMAT=json \
    LEDGER_PORT=8000 \
    MPLCONFIGDIR=/tmp/matplotlib
USER ledger
WORKDIR /
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"LEDGER_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["privacy-ledger"]
CMD ["serve"]
