# Prometheus from Debian's package, in the place of the official image where no registry can be reached. It is unpacked
# into a folder of its own, because its /lib would take the place of the link that /lib is.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
WORKDIR /opt/prometheus
RUN apt-get update -qq && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb . \
    && rm -rf prometheus_*.deb /var/lib/apt/lists/*
ENTRYPOINT ["/opt/prometheus/usr/bin/prometheus"]
