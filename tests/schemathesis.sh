#!/usr/bin/env bash
# Asks the real program whatever its contract allows and forbids, and compares the answers with it.
# Needs schemathesis (PyPI) as `st`, or where ST says. Options go to schemathesis, e.g. --max-examples 1000 --seed 7.
set -euo pipefail
cd "$(dirname "$0")/.."
st=${ST:-st}
cargo build --locked --quiet
data=$(mktemp -d)
log=$data/log
# SETTINGS: more of them, e.g. RATE_LIMIT=100000
env ${SETTINGS:-} "${CARGO_TARGET_DIR:-target}/debug/waybill" local --app . --data "$data/data" --port 0 >"$log" 2>&1 &
host=$!
trap 'kill "$host" 2>/dev/null; wait "$host" 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do
  url=$(grep -om1 'http://[^ ]*/api' "$log" || true)
  [ -n "$url" ] && break
  kill -0 "$host" || { cat "$log"; exit 1; }
  sleep 0.1
done
cd "$data"
"$st" --config-file "$OLDPWD/tests/schemathesis.toml" run "$url/openapi.json" --no-color "$@" || { tail -20 "$log"; exit 1; }
