#!/usr/bin/env bash
# Asks the real program whatever its contract allows and forbids, and compares the answers with it.
# Needs schemathesis (PyPI) as `st`, or where ST says. Options go to it, e.g. --max-examples 1000 --seed 7.
# SETTINGS are more of them for the program, CONFIG is another configuration of schemathesis, ORDERS so many orders are sent before
# (with python3), EXPECT is a status that must have been answered at least once, or the run tried something else than it was for:
#   SETTINGS="ADMISSION_MAX_AGE=1s WORK_DELAY=10s" ORDERS=60 EXPECT=503 CONFIG=tests/schemathesis-bounds.toml tests/schemathesis.sh
set -euo pipefail
cd "$(dirname "$0")/.."
st=$(realpath "$(command -v "${ST:-st}")") || { echo "schemathesis not found: pip install schemathesis, or set ST" >&2; exit 1; }
config=$(realpath "${CONFIG:-tests/schemathesis.toml}")
cargo build --locked --quiet
data=$(mktemp -d)
# shellcheck disable=SC2086 # several settings
env ${SETTINGS:-} "${CARGO_TARGET_DIR:-target}/debug/waybill" local --app . --data "$data/data" --port 0 >"$data/log" 2>&1 &
host=$!
trap 'kill "$host" 2>/dev/null; wait "$host" 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do
  url=$(grep -om1 'http://[^ ]*/api' "$data/log" || true)
  [ -n "$url" ] && break
  kill -0 "$host" || { cat "$data/log"; exit 1; }
  sleep 0.1
done
python3 - "$url/orders" "${ORDERS:-0}" <<'EOF'
import json, sys, urllib.request
for number in range(int(sys.argv[2])):
    order = {"orderId": f"BEFORE-{number}", "customerId": "C", "currency": "EUR", "items": [{"sku": "S", "quantity": 1, "unitPrice": "1"}]}
    request = urllib.request.Request(sys.argv[1], json.dumps(order).encode(), {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request).status == 202
EOF
cd "$data"
"$st" --config-file "$config" run "$url/openapi.json" --no-color "$@" || { tail -20 "$data/log"; exit 1; }
if [ -n "${EXPECT:-}" ] && ! grep -q "http.status=$EXPECT" "$data/log"; then
  echo "nothing was answered with $EXPECT, which this run is to meet" >&2
  exit 1
fi
