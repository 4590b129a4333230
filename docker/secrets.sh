#!/bin/sh
# Makes the secrets of the compose stack, once: the broker's password, the key that daemon and engines share, and the
# password of Grafana's user `admin`. They lie in a volume that only the services see, so that they stand in no
# configuration and in no environment.
set -eu
cd "${1:-/run/reheatd}"
umask 077
for name in broker engine grafana; do
    test -s "$name" || python3 -c 'import secrets; print(secrets.token_urlsafe(32))' >"$name.new"
    test -s "$name" || mv "$name.new" "$name"
done
printf 'requirepass %s\n' "$(cat broker)" >broker.conf
