# Serves a trained model: docker build -t scanwise . && docker run --rm -p 127.0.0.1:8000:8000 \
#   -e SCANWISE_TOKEN="$(python3 -c 'import secrets; print(secrets.token_urlsafe())')" \
#   -v "$PWD/runs/NAME/bundle:/model:ro" scanwise
# Research software, not a medical device.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# PyTorch's own index has the build without CUDA, a twentieth of the size.
RUN python -m venv /venv \
    && /venv/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt '.[serve,dicom,explain]'

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin scanwise
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 SCANWISE_OFFLINE=1
USER 10001
WORKDIR /home/scanwise
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["scanwise"]
# Other machines than the container itself need SCANWISE_TOKEN; without it this refuses to start.
CMD ["serve", "/model", "--host", "0.0.0.0"]
