"""Does the work of orders: change do_work, and keep what it did under the key."""
import http.server, json, os, threading

done, locks = {}, {}  # By Idempotency-Key. Keep what is done in a database.


def do_work(order, key, tell):
    tell({"progress": 50, "stage": "working"})
    # {"error": {"code": "too_large", "message": "what the client may know"}} fails the order; after an exception it is tried again.
    return {"result": {"order": order, "key": key}}


class Work(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        # A second call under a key waits for the first, and finds what it did.
        with locks.setdefault(key, threading.Lock()):
            if key not in done:
                done[key] = do_work(order, key, self.tell)
        self.tell(done[key])

    def tell(self, line):
        self.wfile.write(json.dumps(line).encode() + b"\n")


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Work).serve_forever()
