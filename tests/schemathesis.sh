#!/usr/bin/env bash
# Asks the real program whatever its contract allows and forbids, and compares the answers with it.
# Needs schemathesis (PyPI) as `st`, or where ST says. Options go to it, e.g. --max-examples 1000 --seed 7.
# APP is the folder of another app than Waybill's own; a `work.py` in it is started to do the work.
# SETTINGS are more of them for the program, CONFIG is another configuration of schemathesis, ORDERS so many orders are sent before
# (with python3), EXPECT is a status that must have been answered at least once, or the run tried something else than it was for:
#   SETTINGS="ADMISSION_MAX_AGE=1s WORK_DELAY=10s" ORDERS=60 EXPECT=503 CONFIG=tests/schemathesis-bounds.toml tests/schemathesis.sh
set -euo pipefail
cd "$(dirname "$0")/.."
st=$(realpath "$(command -v "${ST:-st}")") || { echo "schemathesis not found: pip install schemathesis, or set ST" >&2; exit 1; }
config=$(realpath "${CONFIG:-tests/schemathesis.toml}")
cargo build --locked --quiet
data=$(mktemp -d)
app=${APP:-.}
started=()
trap 'kill "${started[@]}" 2>/dev/null; wait 2>/dev/null || true; rm -rf "$data"' EXIT
if [ -f "$app/work.py" ]; then
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  PORT=$port python3 "$app/work.py" 2>/dev/null &
  started+=($!)
  SETTINGS="FULFILLMENT_URL=http://127.0.0.1:$port/work ${SETTINGS:-}"
fi
# shellcheck disable=SC2086 # several settings
env CALLBACK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw CALLBACK_ALLOWED_HOSTS=receiver.example ${SETTINGS:-} "${CARGO_TARGET_DIR:-target}/debug/waybill" local --app "$app" --data "$data/data" --port 0 >"$data/log" 2>&1 &
host=$!
started+=("$host")
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
