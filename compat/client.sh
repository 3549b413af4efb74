#!/usr/bin/env bash
# Runs the client of the original trough against a cluster: client.sh CONSUL_URL
#
# Its packages go to a virtual environment below the user's cache, made anew when what it has changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

package=Trough==0.2.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trough
venv=$cache/compat-$({ echo "$package"; python3 --version; cat requirements.txt; } | sha256sum | cut -c1-16)
if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$venv.lock"
    flock 9
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package"
        touch "$venv/complete"
    fi
    flock -u 9
fi
if [ "${1:-}" = fetch ]; then exit; fi
SHELL_OUTPUT=$(mktemp)
export SHELL_OUTPUT
trap 'rm -f "$SHELL_OUTPUT"' EXIT
PYTHONDONTWRITEBYTECODE=1 timeout 300 "$venv/bin/python" client_test.py "$1"
