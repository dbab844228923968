#!/usr/bin/env bash
# Makes .tools/pm2 with npm's pm2, unless it is there already. The last line on stdout is its command.
set -euo pipefail
cd "$(dirname "$0")/.."

version=6.0.14

say() { echo "pm2.sh: $*" >&2; }

if ! { command -v node && command -v npm; } >/dev/null; then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        say "installing nodejs and npm"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nodejs npm; } >&2
    else
        say "needs Node.js 16 or newer and npm (packages nodejs and npm)"
        exit 69
    fi
fi

if [[ ! -e .tools/pm2/node_modules/.bin/pm2 || $(cat .tools/pm2/stamp 2>/dev/null) != "$version" ]]; then
    say "installing pm2 $version into .tools/pm2"
    rm -rf .tools/pm2
    mkdir -p .tools/pm2
    npm install --silent --no-audit --no-fund --no-save --prefix .tools/pm2 "pm2@$version" >&2
    echo "$version" >.tools/pm2/stamp
fi
echo "$PWD/.tools/pm2/node_modules/.bin/pm2"
