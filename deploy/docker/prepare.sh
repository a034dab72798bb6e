#!/usr/bin/env bash
# Makes what compose.yaml mounts and nobody should find in a repository: passwords, certificates, a token.
#
#   deploy/docker/prepare.sh [HOST...]    HOST: further names by which producers reach the broker
#
# Writes to deploy/docker/secrets (or $REMEDYD_SECRETS). What is there is kept.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${REMEDYD_SECRETS:-$here/secrets}
mkdir -p "$dir"
"$here/../rabbitmq/users.sh" "$dir/users"
"$here/../rabbitmq/tls.sh" "$dir/tls" broker localhost 127.0.0.1 "$@"

printf 'amqps://remedyd:%s@broker:5671/%%2f' "$(cat "$dir/users/remedyd.password")" >"$dir/amqp-url"
for secret in ops-token grafana.password; do
    [ -s "$dir/$secret" ] || openssl rand -hex 24 | tr -d '\n' >"$dir/$secret"
done

# The broker's share, apart from the service's: its container gets the directory as a whole.
mkdir -p "$dir/broker/tls"
cp "$dir/users/users.json" "$dir/broker/users.json"
cp "$dir/tls/ca.pem" "$dir/tls/broker.pem" "$dir/tls/broker.key" "$dir/broker/tls/"

# The containers' accounts are others than the one that runs this, and compose hands files on with their owner and mode.
# The directory itself stays closed to other accounts of this machine.
chmod 644 "$dir/amqp-url" "$dir/ops-token" "$dir/grafana.password" "$dir/broker/users.json" "$dir"/tls/*.pem "$dir/tls/remedyd.key" \
    "$dir"/broker/tls/*
chmod 755 "$dir/broker" "$dir/broker/tls"
echo "secrets are in $dir"
