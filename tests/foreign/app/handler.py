"""A custom handler in Python's standard library: it does what the request or the message tells it, and writes down what it saw.

Orders are a JSON object, as the body of a request to `Case` or as the text of a message:

    sleep   seconds to wait before answering; a list gives one number for each delivery
    until   a file to wait for before answering
    exit    end this process with that code
    fail    answer 500 as long as DeliveryCount is not above this number
    answer  answer the host exactly with this status, contentType and body
    send    texts for the queue behind `orderMessage`
    relay   texts for the queue of `Relay`
    show    "process": answer the client with the environment, arguments and directory

The function `Stuck` never answers.
"""

import json
import os
import select
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RECORD = os.environ.get("RECORD")
RECORDING = threading.Lock()


def record(**entry):
    """One line for the test, written at once."""
    if RECORD:
        entry.update(process=os.getpid(), at=time.monotonic())
        with RECORDING, open(RECORD, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def orders(text):
    """What a body or message text tells the handler to do."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def obey(order, delivery):
    """The orders that do not depend on the kind of function; the exact answer, if one is wanted."""
    sleep = order.get("sleep", 0)
    if isinstance(sleep, list):
        sleep = sleep[delivery - 1] if delivery <= len(sleep) else 0
    time.sleep(sleep)
    while "until" in order and not os.path.exists(order["until"]):
        time.sleep(0.01)
    if "exit" in order:
        os._exit(order["exit"])
    if delivery <= order.get("fail", 0):
        return {"status": 500, "contentType": "application/json", "body": "{}"}
    return order.get("answer")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def respond(self):
        body = self.received()
        name = self.path.strip("/")
        if self.path.startswith("/api/"):
            self.forwarded(body)
        elif name in ("Case", "Hello"):
            self.request_to(name, body)
        elif name:
            self.message_to(name, body)
        else:
            self.answer(404, None, b"")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = respond

    def request_to(self, name, body):
        envelope = json.loads(body)
        order = orders(envelope["Data"]["req"].get("Body"))
        record(event="begin", function=name)
        exact = obey(order, 1)
        if exact:
            return self.answer(exact["status"], exact["contentType"], exact["body"].encode())
        if order.get("show") == "process":
            seen = {"environment": dict(os.environ), "arguments": sys.argv[1:], "directory": os.getcwd(), "process": os.getpid()}
        else:
            head = [[key, value] for key, value in self.headers.items()]
            seen = {"line": self.requestline, "head": head, "envelope": envelope, "process": os.getpid()}
        res = {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(seen)}
        self.outputs({"res": res, "orderMessage": order.get("send"), "relayed": order.get("relay")})

    def message_to(self, name, body):
        envelope = json.loads(body)
        (given,) = envelope["Data"].values()
        text = json.loads(given) if isinstance(given, str) else given
        metadata = envelope["Metadata"]
        delivery = int(metadata.get("DeliveryCount", "1"))
        seen = {"function": name, "text": text, "delivery": delivery, "properties": metadata.get("ApplicationProperties")}
        record(event="begin", **seen)
        while name == "Stuck":
            time.sleep(1)
        exact = obey(orders(text[0] if isinstance(text, list) and text else text), delivery)
        record(event="end", **seen)
        if exact:
            return self.answer(exact["status"], exact["contentType"], exact["body"].encode())
        self.outputs({"orderMessage": [f"relayed {text}"]} if name == "Relay" else {})

    def forwarded(self, body):
        seen = {"line": self.requestline, "head": [[key, value] for key, value in self.headers.items()], "body": body.decode()}
        record(event="begin", function="forwarded")
        if self.path.endswith("/wait"):
            # Readable before it is answered means that the host has hung up.
            hung_up, _, _ = select.select([self.connection], [], [], 0.5)
            record(event="end", function="forwarded", connected=not hung_up)
        self.answer(418, "application/x-teapot", json.dumps(seen).encode())

    def outputs(self, outputs):
        self.answer(200, "application/json", json.dumps({"Outputs": outputs}).encode())

    def answer(self, status, content_type, body):
        self.send_response_only(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def received(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["FUNCTIONS_CUSTOMHANDLER_PORT"])), Handler).serve_forever()
