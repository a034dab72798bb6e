#!/usr/bin/env bash
# Makes an authority of one's own and the certificates of both sides, for TLS between remedyd and its broker.
#
#   deploy/rabbitmq/tls.sh DIR HOST...    HOST: a name or address by which clients reach the broker
#
# Writes to DIR: ca.pem (both sides trust it), broker.pem and broker.key, remedyd.pem and remedyd.key, and ca.key, which
# belongs on neither machine: keep it where certificates are made. What is there is kept; to renew a certificate delete it
# and its key and run this again. Certificates last 397 days, the authority ten years.
set -euo pipefail
umask 077

AUTHORITY_DAYS=3650
CERTIFICATE_DAYS=397

[ $# -ge 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 64; }
command -v openssl >/dev/null || { echo "tls.sh: openssl is missing" >&2; exit 1; }
dir=$1
shift
mkdir -p "$dir"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# Names as a certificate lists them: addresses are of another kind than names.
alternatives() {
    local host names=''
    for host in "$@"; do
        if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then names+=",IP:$host"; else names+=",DNS:$host"; fi
    done
    echo "${names#,}"
}

# NAME, its use, and further lines of extensions.
certificate() {
    local name=$1 use=$2 more=${3:-}
    if [ -s "$dir/$name.pem" ] && [ -s "$dir/$name.key" ]; then return; fi
    key "$dir/$name.key"
    openssl req -new -key "$dir/$name.key" -subj "/CN=$name" -out "$dir/$name.csr"
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" "extendedKeyUsage=$use" \
        "subjectKeyIdentifier=hash" "authorityKeyIdentifier=keyid" ${more:+"$more"} >"$dir/$name.ext"
    openssl x509 -req -in "$dir/$name.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
        -days "$CERTIFICATE_DAYS" -sha256 -extfile "$dir/$name.ext" -out "$dir/$name.pem" 2>/dev/null
    rm -f "$dir/$name.csr" "$dir/$name.ext"
}

if ! [ -s "$dir/ca.pem" ]; then
    key "$dir/ca.key"
    openssl req -x509 -new -key "$dir/ca.key" -sha256 -days "$AUTHORITY_DAYS" -subj "/CN=remedyd broker authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.pem"
fi
certificate broker serverAuth "subjectAltName=$(alternatives "$@")"
certificate remedyd clientAuth "subjectAltName=DNS:remedyd"
# public, and read by the broker's account
chmod 644 "$dir/ca.pem" "$dir/broker.pem" "$dir/remedyd.pem"
for name in ca broker remedyd; do
    echo "$dir/$name.pem $(openssl x509 -in "$dir/$name.pem" -noout -enddate)"
done
