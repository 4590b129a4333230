# Prometheus from Debian's package, in the place of the official image where no registry can be reached.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
RUN apt-get update -qq && cd /tmp && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb / \
    && rm -rf prometheus_*.deb /var/lib/apt/lists/*
ENTRYPOINT ["prometheus"]
