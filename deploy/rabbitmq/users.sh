#!/usr/bin/env bash
# Makes the broker's users for remedyd, each with the rights it needs and no others.
#
#   deploy/rabbitmq/users.sh DIR [VHOST [PREFIX]]
#
# Writes to DIR, for its owner alone: USER.password for each user that has none yet, and users.json with their hashes and
# rights, in the shape of RabbitMQ's definitions (rabbitmqctl import_definitions, or load_definitions in rabbitmq.conf).
# Running it again keeps the passwords; to change one, delete its file first.
#
#   PREFIX            the service: consumes its queues, publishes status events and dead letters
#   PREFIX-portal     a producer: what people ask for, decide and confirm
#   PREFIX-vendor     a producer: reports, surveys, organizations
#   PREFIX-reader     a consumer of status events, over queues of its own, PREFIX-reader.*
#   PREFIX-operator   applies the topology, reads dead letters and has them applied again, listens with remedyd tail
set -euo pipefail
umask 077

case $# in 1 | 2 | 3) ;; *) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 64 ;; esac
command -v openssl >/dev/null || { echo "users.sh: openssl is missing" >&2; exit 1; }
dir=$1 vhost=${2:-/} prefix=${3:-remedyd}
# they are put into JSON and regular expressions below
[[ $prefix =~ ^[a-z][a-z0-9_-]*$ ]] || { echo "users.sh: a prefix is of a-z, 0-9, '_' and '-': $prefix" >&2; exit 64; }
[[ $vhost =~ ^[A-Za-z0-9/._-]+$ ]] || { echo "users.sh: a virtual host is of letters, digits, '/', '.', '_' and '-': $vhost" >&2; exit 64; }
mkdir -p "$dir"

# Prints the password of a user, after making one if there is none.
password() {
    local file=$dir/$1.password
    [ -s "$file" ] || openssl rand -hex 24 >"$file"
    tr -d '\n' <"$file"
}

# As the broker keeps it: a salt of four bytes, then SHA-256 over salt and password, in base64.
hash() {
    local salt
    salt=$(openssl rand -hex 4 | sed 's/../\\x&/g')
    {
        printf '%b' "$salt"
        { printf '%b' "$salt"; password "$1"; } | openssl dgst -sha256 -binary
    } | openssl base64 -A
}

# One entry: who, and what it may configure, write and read. Commas stand between entries, not behind the last.
users='' permissions='' topics=''
user() {
    local name=$1 configure=$2 write=$3 read=$4
    users+="${users:+,}
    {\"name\": \"$name\", \"password_hash\": \"$(hash "$name")\", \"hashing_algorithm\": \"rabbit_password_hashing_sha256\", \"tags\": []}"
    permissions+="${permissions:+,}
    {\"user\": \"$name\", \"vhost\": \"$vhost\", \"configure\": \"$configure\", \"write\": \"$write\", \"read\": \"$read\"}"
}
topic() {
    local name=$1 write=$2
    topics+="${topics:+,}
    {\"user\": \"$name\", \"vhost\": \"$vhost\", \"exchange\": \"$prefix.events\", \"write\": \"$write\", \"read\": \"^\$\"}"
}

# an expression that nothing matches; and a dot that is one, escaped once more for JSON
nothing='^$' dot='\\.'
own="$prefix$dot"
user "$prefix" "$nothing" "^($own""status|amq${dot}default)\$" "^$own""p[0-9]+$dot(reports|surveys)\$"
user "$prefix-portal" "$nothing" "^$own""events\$" "$nothing"
user "$prefix-vendor" "$nothing" "^$own""events\$" "$nothing"
user "$prefix-reader" "^$prefix-reader$dot" "^$prefix-reader$dot" "^($own""status\$|$prefix-reader$dot)"
# amq.gen-: the queue that the broker names, by which remedyd tail listens
user "$prefix-operator" "^($own|amq${dot}gen-)" "^($own|amq${dot}(gen-|default\$))" "^($own|amq${dot}gen-)"

# A second fence: the first is the service's own list of users ([[users]] in its settings), which judges what an event says
# of itself; this one judges the routing key.
requests="remediations$dot(approved|rejected)|remediation$dot(completed|uncompleted|retry_requested|cancel_requested|waived)"
requests+="|incident_report$dot(resolution|dismissal|reopen)_requested|soc_support${dot}requested|agent$dot(isolation|release)_requested"
topic "$prefix-portal" "^($requests)$dot"
reports="incident_report$dot(created|revised|updated|comment_added|dismissed|closed)|remediation${dot}attempted"
reports+="|agent$dot(surveyed|removed)|organization$dot(updated|deleted)|funnel${dot}counted"
topic "$prefix-vendor" "^($reports)$dot"

cat >"$dir/users.json" <<JSON
{
  "vhosts": [{"name": "$vhost"}],
  "users": [$users
  ],
  "permissions": [$permissions
  ],
  "topic_permissions": [$topics
  ]
}
JSON
echo "$dir/users.json"
