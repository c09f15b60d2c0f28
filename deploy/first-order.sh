#!/bin/sh
# Sends one order to a deployed app, and follows it to its end: first-order.sh URL [HEADER...]
#   first-order.sh https://APP.azurewebsites.net/api "x-functions-key: KEY"
#   ORDER=@order.json first-order.sh https://APP.azurewebsites.net/api "Authorization: Bearer TOKEN"
# ORDER is the text of an order, or @ and a file with one; without it the built-in order is sent.
# Exit code 0: the order is completed. The app does the work of the order as of any other.
set -eu
url=$1
shift
for header; do
  set -- "$@" --header "$header"
  shift
done
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
run=first-$(date +%s)-$$
built_in="{\"orderId\":\"$run\",\"customerId\":\"first-order\",\"currency\":\"EUR\",\"items\":[{\"sku\":\"FIRST\",\"quantity\":1,\"unitPrice\":\"1.00\"}]}"
order=${ORDER:-$built_in}
if [ "${order#@}" != "$order" ] && [ ! -r "${order#@}" ]; then
  echo "ORDER names a file that cannot be read: ${order#@}" >&2
  exit 1
fi
end=$(($(date +%s) + ${PATIENCE:-600}))

# The last part of a request's answer: its status, 000 for none. The body is in the file.
ask() {
  curl --silent --max-time 60 --output "$answer" --write-out '%{http_code}' "$@" || true
}

# The same request again makes no second order, so that it may be repeated: a new app takes minutes to start. The key makes an order of its
# own for each run, also of a file that an earlier run sent.
while status=$(ask --header 'Content-Type: application/json' --header "Idempotency-Key: $run" --data-binary "$order" "$@" "$url/orders") && [ "$status" != 202 ]; do
  case $status in
    400 | 409 | 413 | 415 | 422)
      echo "refused, $status: $(head -c 5000 "$answer")" >&2
      exit 1
      ;;
  esac
  echo "not accepted yet, $status: $(head -c 500 "$answer")" >&2
  [ "$(date +%s)" -lt "$end" ] || exit 1
  sleep "${PAUSE:-10}"
done
# Links lead through the gateway where there is one; this script stays on its way.
link=$(grep -o '"statusUrl": *"[^"]*"' "$answer" | cut -d '"' -f 4)
status_url=$url/orders/${link##*/orders/}
echo "accepted: $status_url"

while [ "$(date +%s)" -lt "$end" ]; do
  ask --header 'Prefer: wait=20' "$@" "$status_url" > /dev/null
  case $(grep -o '"status": *"[a-z]*"' "$answer" | head -n 1 | cut -d '"' -f 4) in
    completed) echo completed && exit 0 ;;
    failed | cancelled) cat "$answer" >&2 && exit 1 ;;
    accepted | processing) ;;
    *) sleep "${PAUSE:-10}" ;;
  esac
done
echo "it has not ended: $(head -c 500 "$answer")" >&2
exit 1
