#!/usr/bin/env bash
# Makes the Debian package of a program that has been built already.
#
#   deploy/debian/build.sh PROGRAM DIR    packs PROGRAM (target/release/remedyd) and writes the package to DIR
#
# Needs debhelper, and must run on the oldest system that the package is for: the program depends on the C library it was
# linked with. What goes in: the program, its manual pages, the settings file as a conffile, the unit of deploy/systemd,
# an account for the service, the runbooks. The version is that of Cargo.toml.
set -euo pipefail

die() { echo "build.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 64; }
command -v dh >/dev/null || die "dh is missing: apt-get install debhelper"
program=$(realpath "$1")
[ -x "$program" ] || die "$1 is no program: cargo build --release"
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ -n "$version" ] || die "no version in Cargo.toml"
# the same commit gives the same package
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}
export SOURCE_DATE_EPOCH

scratch=$(mktemp -d "${TMPDIR:-/tmp}/remedyd-deb.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
tree=$scratch/remedyd
mkdir "$tree"
cp -r deploy/debian/debian "$tree/debian"
cp deploy/systemd/remedyd.service "$tree/debian/remedyd.service"
cp "$program" "$tree/remedyd"
cp deploy/remedyd.example.toml "$tree/remedyd.toml"
cp README.md "$tree/README.md"
cp -r deploy/runbooks "$tree/runbooks"
"$program" manual "$tree/man"
cat >"$tree/debian/changelog" <<CHANGES
remedyd ($version) unstable; urgency=medium

  * What has changed is in the project's CHANGELOG.md.

 -- The remedyd maintainers <maintainers@remedyd.invalid>  $(date -u -d "@$SOURCE_DATE_EPOCH" -R)
CHANGES

(cd "$tree" && DEB_BUILD_OPTIONS="noautodbgsym ${DEB_BUILD_OPTIONS:-}" dpkg-buildpackage --build=binary --no-sign --no-check-builddeps) >"$scratch/log" 2>&1 ||
    { cat "$scratch/log" >&2; die "dpkg-buildpackage failed"; }
for package in "$scratch"/*.deb; do
    cp "$package" "$out/"
    echo "$out/$(basename "$package")"
done
