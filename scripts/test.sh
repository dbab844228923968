#!/usr/bin/env bash
# Everything that must hold before a commit: format, lints, dependencies, the Python peers among themselves, all tests.
# Installs what is missing where it may. CI=true makes absent golden vectors and peers a failure instead of a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo "== $* ($((SECONDS)) s)" >&2
    "$@"
}

# SQLite, zstd and secp256k1 are compiled from C.
if ! command -v cc >/dev/null; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "test.sh: needs a C compiler (package build-essential)" >&2
        exit 69
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy build-essential
fi

SN17_PYTHON=$(scripts/python.sh | tail -n 1)
export SN17_PYTHON
SN17_PM2=$(scripts/pm2.sh | tail -n 1) && export SN17_PM2

step cargo fmt --all --check
# cargo-deny takes minutes to compile; the script enforces the same file in a second.
if cargo deny --version >/dev/null 2>&1; then
    step cargo deny --locked check licenses bans sources
else
    step "$SN17_PYTHON" scripts/dependencies.py
fi
step "$SN17_PYTHON" tests/peers/selftest.py
step cargo clippy --locked --all-targets -- -D warnings
step cargo test --locked --no-run

# These wait for processes and clocks most of the time, the others compute: side by side they take half as long.
waiting=(chain_life_binary disk_full handoff_campaign handoff_kills hostile_sockets kill_anywhere
    kill_between_kept_and_booked peer_axon peer_dendrite service_pm2 store_lock)
beside=() alone=()
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    if [[ " ${waiting[*]} " == *" $name "* ]]; then beside+=(--test "$name"); else alone+=(--test "$name"); fi
done
log=$(mktemp)
trap 'rm -f "$log"; kill "${other-}" 2>/dev/null || true' EXIT
cargo test --locked --no-fail-fast "${beside[@]}" >"$log" 2>&1 &
other=$!
status=0
step cargo test --locked --no-fail-fast --lib --bins "${alone[@]}" || status=$?
echo "== cargo test --locked ${beside[*]} ($SECONDS s)" >&2
wait "$other" || status=$?
other=
cat "$log"
if [[ $status != 0 ]]; then exit "$status"; fi
echo "== all passed ($SECONDS s)" >&2
