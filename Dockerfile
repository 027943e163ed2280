# Builds the bot into a virtual environment, then copies that into an image without build tools.
FROM python:3.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/ephemeral-bot

# The dependencies by themselves first: this layer stays as long as they do.
COPY pyproject.toml ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && pip --python /opt/ephemeral-bot/bin/python install --requirement requirements.txt

COPY README.md LICENSE ./
COPY bot bot
RUN pip --python /opt/ephemeral-bot/bin/python install --no-deps .


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="matrix-ephemeral-bot" \
      org.opencontainers.image.description="Disappearing messages for any Matrix room" \
      org.opencontainers.image.source="https://github.com/matrix-ephemeral-bot/matrix-ephemeral-bot" \
      org.opencontainers.image.licenses="Apache-2.0"

# Whoever runs the bot with a folder of the host as /data gives that folder to this number.
RUN groupadd --gid 10001 bot \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin bot \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data \
    && python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.11/ensurepip

COPY --from=build /opt/ephemeral-bot /opt/ephemeral-bot

# Nothing but /data is written to, so the root file system may be read-only. The bot itself sets
# the umask to 077.
ENV PATH=/opt/ephemeral-bot/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME ["/data"]

# From here the default paths come out right: settings in /config.yaml, if that file is there, or
# else in the environment alone, and everything that is to be kept in /data.
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["ephemeral-bot"]
CMD ["run"]
