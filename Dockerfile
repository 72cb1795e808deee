# The image of worker, beat, serve and Flower. Build and run it with docker-compose.yml (see docs/deployment.md).

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY pipeline ./pipeline
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check ".[redis,postgres,webhooks,http,flower]"

FROM python:3.13-slim
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIPELINE_DIRECTORY=/var/lib/pipeline
# /var/lib/pipeline is the only place that is written to: beat's schedule; the embedded broker and a ledger in a file, if used.
RUN useradd --system --uid 10001 --home-dir /app --create-home pipeline \
    && install --directory --owner=pipeline --group=pipeline --mode=0700 /var/lib/pipeline
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
USER pipeline
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "pipeline", "worker", "--loglevel=INFO"]
