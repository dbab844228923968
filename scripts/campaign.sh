#!/usr/bin/env bash
# Runs a random test at full size in release mode and adds its result to docs/measurements.md.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/campaign.sh NAME [SIZE]

  kills [N]    kill -9 at N random moments (300) over a development network in its own process
  hostile [N]  N random hostile replies (1000) of fake validators and workers to the real binary
  handoffs [N] N hand-offs (1000) with random faults between worker processes on one card, and what the coordinator
               itself adds to each step
  simulate [N] the capacity table and the table of luck of rules.md with N seeds (5), and two large ones; their
               tables replace the section "Simulations" of docs/measurements.md; SN17_LARGE=no leaves the large
               ones out, which take as long as all the others

The seed is random, 1 for simulations; SN17_SEED=N sets it. Exit status: that of the campaign, 2 for wrong arguments.
TEXT
}

# A campaign is an ignored test. It prints SN17_SEED=... and, when it has passed, one line "RESULT ...".
name=${1-}
case $name in
    kills)
        size=${2-300}
        unit=kills
        export SN17_KILLS=$size
        test=(--test kill_anywhere full_size)
        ;;
    hostile)
        size=${2-1000}
        unit=replies
        export SN17_HOSTILE=$size
        test=(--test hostile_campaign hostile_campaign)
        ;;
    handoffs)
        size=${2-1000}
        unit=hand-offs
        export SN17_HANDOFFS=$size
        test=(--test handoff_campaign full_size)
        ;;
    simulate)
        size=${2-5}
        unit=seeds
        export SN17_SIMULATE=$size
        export SN17_SEED=${SN17_SEED-1}
        SN17_TABLES=$(mktemp)
        export SN17_TABLES
        test=(--test simulate_campaign full_size)
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
if [[ $# -gt 2 || ! $size =~ ^[1-9][0-9]*$ ]]; then
    usage >&2
    exit 2
fi

export SN17_SEED=${SN17_SEED-$((RANDOM * 32768 + RANDOM))}
cargo build --quiet --release --locked "${test[@]:0:2}"
log=$(mktemp)
trap 'rm -f "$log" ${SN17_TABLES+"$SN17_TABLES"}' EXIT
status=0
started=$SECONDS
cargo test --quiet --release --locked "${test[@]}" -- --ignored --exact --nocapture 2>&1 | tee "$log" || status=$?
wall=$((SECONDS - started))

result=$(sed -n 's/^RESULT //p' "$log" | tail -n 1)
if [[ $status != 0 || -z $result ]]; then
    result="failed: $(grep -m 1 -A 1 'panicked at' "$log" | tail -n 1 | cut -c 1-200 | tr '|' '/' || true)"
    status=${status/#0/1}
fi
row="| $(date -u +%F) | $name | $SN17_SEED | $size $unit | ${result//|//} | $wall s | \`scripts/campaign.sh $*\` |"
ROW=$row awk '
    { print }
    /^## / { campaigns = ($0 == "## Campaigns") }
    campaigns && /^\| --- / { print ENVIRON["ROW"] }
' docs/measurements.md >"$log"
cp "$log" docs/measurements.md
if [[ -s ${SN17_TABLES-} ]]; then
    awk '
        !/^## / && skipping { next }
        { skipping = ($0 == "## Simulations"); print }
        skipping { print ""; while ((getline line < ENVIRON["SN17_TABLES"]) > 0) print line; print "" }
    ' docs/measurements.md >"$log"
    cp "$log" docs/measurements.md
fi
echo "$row"
exit "$status"
