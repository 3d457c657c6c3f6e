#!/usr/bin/env bash
# Fetches colour emoji for the demo: Debian's package ruby-gemojione, unpacked without its dependencies, sorted into one
# folder per class. The art (EmojiOne) is licensed CC-BY-SA 4.0 and therefore fetched, never part of this repository.
#
#   fetch-emoji.sh   prints the directory of the class folders as its last line
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

target=$deps_dir/emoji
if [ ! -d "$target" ]; then
  partial=$(mktemp -d "$deps_dir/.partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  chmod 755 "$partial"
  say "fetching Debian's ruby-gemojione (5 MB; art by EmojiOne, CC-BY-SA 4.0)"
  (cd "$partial" && with_progress "emoji" "$log_dir/emoji.log" apt-get -q download ruby-gemojione) ||
    die "could not download the Debian package ruby-gemojione; run 'apt-get update' as root and try again"
  dpkg-deb -x "$partial"/ruby-gemojione_*.deb "$partial/tree"
  python3 deploy/dev/sort_emoji.py "$partial/tree" "$partial/classes"
  mv "$partial/classes" "$target"
fi
echo "$target"
