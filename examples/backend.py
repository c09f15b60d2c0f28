"""Renders reports: /now answers with the result, /later with a 202 and Location, /progress line by line."""
import http.server, json, os, threading, time
from urllib.parse import quote, unquote

PORT, PAUSE = int(os.environ.get("PORT", "9000")), float(os.environ.get("PAUSE", "1"))
jobs, lock = {}, threading.Lock()  # By Idempotency-Key. A real service keeps them in its database.

class Job:
    """One rendering, which all calls under its key share."""
    def __init__(self, order):
        self.order, self.state, self.changed = order, None, threading.Condition()
        threading.Thread(target=self.render, daemon=True).start()

    def render(self):
        for number, stage in enumerate(["reading", "drawing", "binding"]):
            self.show({"status": "running", "progress": 33 * number, "stage": stage})
            time.sleep(PAUSE)
        result = {"file": self.order["title"] + ".pdf", "pages": self.order["pages"], "rendered": str(time.time_ns())}
        self.show({"status": "completed", "result": result})

    def show(self, state):
        with self.changed:
            self.state = state
            self.changed.notify_all()

    def states(self):
        seen = None
        while seen is None or "result" not in seen:
            with self.changed:
                self.changed.wait_for(lambda: self.state is not seen)
                seen = self.state
            yield seen

class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        key, order = self.headers["Idempotency-Key"], json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not isinstance(order.get("title"), str) or not isinstance(order.get("pages"), int):
            return self.answer(422, {"title": "a report has a title and a number of pages"})
        with lock:
            job = jobs[key] = jobs.get(key) or Job(order)
        if self.path == "/now":
            return self.answer(200, list(job.states())[-1]["result"])
        if self.path == "/later":
            return self.answer(202, {}, {"Location": "/jobs/" + quote(key, safe=""), "Retry-After": "1"})
        self.answer(200, {}, {"Content-Type": "application/x-ndjson"})
        for state in job.states():
            self.wfile.write(json.dumps(state).encode() + b"\n")

    def do_GET(self):
        job = jobs.get(unquote(self.path.removeprefix("/jobs/")))
        self.answer(200, job.state) if job else self.answer(404, {})

    def answer(self, status, body, headers={}):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode() + b"\n")

http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Backend).serve_forever()
