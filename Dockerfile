# One node. Data lives in the volume /data; the admin listener stays inside the container.
#   docker build -t heliograph .
#   docker run -p 8000:8000 -v heliograph-data:/data --stop-timeout 60 heliograph
#   docker exec CONTAINER heliograph node status
FROM python:3.11-slim AS build
WORKDIR /src
COPY setup.cfg pyproject.toml requirements.lock README.md ./
COPY storage storage
COPY cluster cluster
COPY node node
COPY cli cli
COPY bench bench
RUN python -m venv /opt/heliograph \
 && /opt/heliograph/bin/pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin heliograph \
 && install -d -o heliograph -g heliograph -m 0700 /data
COPY --from=build /opt/heliograph /opt/heliograph
ENV PATH=/opt/heliograph/bin:$PATH \
    HELIOGRAPH_DATA=/data \
    HELIOGRAPH_HTTP_HOST=0.0.0.0 \
    HELIOGRAPH_CLUSTER_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1
USER heliograph
VOLUME /data
EXPOSE 8000 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8001/readyz', timeout=2)"]
ENTRYPOINT ["heliograph"]
CMD ["node", "run"]
