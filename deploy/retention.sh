#!/usr/bin/env bash
# What is kept only for a while, beside what the server's own vacuum does (deploy/server.env): once a day, by cron or a timer.
#
#   deploy/retention.sh [--days 14] OUT...
#
# Of each output folder, unfinished work on slides that no run has touched for so many days goes, and so do fetched slides; of
# MUSE_WORK, working copies of outputs in a store; of PREFECT_HOME, logs of workers. Tables, records and checkpoints stay. A
# folder in which a run works is left alone.
set -euo pipefail

days=14
if [ "${1:-}" = "--days" ]; then
    days=${2:-}
    shift $(($# < 2 ? $# : 2))
fi
if ! [[ $days =~ ^[1-9][0-9]*$ ]]; then
    echo "retention.sh: --days '$days': a whole number of days, 1 or more, needed" >&2
    exit 2
fi

old() { # old FOLDER: what lies in it and was not changed for so long, all below included
    [ -d "$1" ] || return 0
    find "$1" -mindepth 1 -maxdepth 1 -print0 | while IFS= read -r -d '' entry; do
        # What cannot be looked through whole may hold something new: it stays.
        new=$(find "$entry" -mtime "-$days" -print -quit) || continue
        [ -n "$new" ] || printf '%s\0' "$entry"
    done
}

for out in "$@"; do
    state=$(muse status --out "$out") || continue # which has said why
    if [[ $state == *": running"* ]]; then
        echo "$out: a run works there, left alone"
        continue
    fi
    for folder in "$out/.staging" "$out/slides"; do
        old "$folder" | xargs -0 --no-run-if-empty rm -rf --
    done
done
old "${MUSE_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/muse/outputs}" | xargs -0 --no-run-if-empty rm -rf --
old "${PREFECT_HOME:-$HOME/.prefect}/logs" | xargs -0 --no-run-if-empty rm -rf --
