#!/usr/bin/env bash
# Makes .venv with what the Python peers need, unless it is there already. The last line on stdout is its interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "python.sh: $*" >&2; }

usable() {
    command -v "$1" >/dev/null &&
        "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in python3.11 python3; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [[ -z $python && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "installing python3 and its venv module"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy python3 python3-venv; } >&2
    python=$(find_python)
fi
if [[ -z $python ]]; then
    say "needs Python 3.11 or newer with the venv module (packages python3 and python3-venv)"
    exit 69
fi

stamp=$("$python" -V; sha256sum <scripts/requirements.txt)
if [[ ! -x .venv/bin/python || $(cat .venv/stamp 2>/dev/null) != "$stamp" ]]; then
    say "installing scripts/requirements.txt into .venv"
    rm -rf .venv
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r scripts/requirements.txt >&2
    echo "$stamp" >.venv/stamp
fi
echo "$PWD/.venv/bin/python"
