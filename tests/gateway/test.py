"""Both ways through the gateway, end to end: infra/apim as it is, in front of `waybill local`. WAYBILL names the binary."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gateway

PATIENCE = 60
KEYS = {"key-of-a": "subscription-a", "key-of-b": "subscription-b"}
ORDER = (gateway.ROOT / "samples/order.json").read_text()
# Digits, white space and letters that a parsed and rewritten text would lose.
EXACT = '{ "orderId":"G-1","customerId":"Zo\\u00eb é", "at":"2026-11-30T10:15:30+01:00", "big":12345678901234567890.10 }'


def eventually(what, ask):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = ask()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.text = status, headers, body.decode()

    def json(self):
        return json.loads(self.text)


class Front:
    """A gateway, and what its clients do."""

    def __init__(self, **options):
        values = {"waybill-queue-url": "http://127.0.0.1:9/orders", "waybill-queue-key": "local"}
        self.options = {"token": "none", "sender": "key", "values": values, "backend": "http://127.0.0.1:9/api", "subscriptions": KEYS, **options}
        self.server = gateway.serve(self.options)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def ask(self, method, path, body=None, key="key-of-a", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers |= {"Ocp-Apim-Subscription-Key": key} if key else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        return Answer(*gateway.ask(method, path if path.startswith("http") else self.url + path, headers, (body or "").encode(), PATIENCE))


class Local:
    """`waybill local` behind a gateway."""

    def __init__(self, front, **settings):
        self.data = tempfile.TemporaryDirectory()
        settings = {
            "PATH": os.environ["PATH"], "RATE_LIMIT": "0", "RATE_LIMIT_SUBSCRIPTION_HEADER": "X-Subscription-Id", "PUBLIC_BASE_URL": f"{front.url}/waybill",
            "ServiceBusConnection": "Endpoint=sb://localhost;SharedAccessKeyName=gateway;SharedAccessKey=local;UseDevelopmentEmulator=true;", **settings,
        }
        self.lines = []
        command = [os.environ["WAYBILL"], "local", "--app", str(gateway.ROOT), "--data", self.data.name, "--port", "0", "-v"]
        self.process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        eventually("the host listens", lambda: self.found("(Press Ctrl-C)"))
        port = self.found(r"http://localhost:(\d+)/api")
        front.options["backend"] = f"http://127.0.0.1:{port}/api"
        front.options["values"]["waybill-queue-url"] = self.found(r"REST protocol of Service Bus, at (http://[\d.:]+)") + "/orders"

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def found(self, pattern):
        return next((found[1] for line in list(self.lines) if (found := re.search(pattern, line))), None)

    def operate(self, *arguments):
        command = [os.environ["WAYBILL"], *arguments, "--data", self.data.name, "--json"]
        return [json.loads(line) for line in subprocess.run(command, env={"PATH": os.environ["PATH"]}, check=True, capture_output=True, text=True).stdout.splitlines()]

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.data.cleanup()


class Heard(ThreadingHTTPServer):
    """A queue or an app that answers one status after the other, the last one again and again, and keeps what it hears. None is no answer."""

    daemon_threads = True

    def __init__(self, *statuses):
        self.requests, self.over, heard = [], threading.Event(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
                heard.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                status = statuses[min(len(heard.requests), len(statuses)) - 1]
                if status is None:
                    heard.over.wait(PATIENCE)
                else:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.over.set()
        self.shutdown()
        self.server_close()


def prime(bits):
    while True:
        number = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23)) or (number - 1) % 65537 == 0:
            continue
        odd, halvings = number - 1, 0
        while odd % 2 == 0:
            odd, halvings = odd // 2, halvings + 1
        for _ in range(20):
            power = pow(secrets.randbelow(number - 3) + 2, odd, number)
            for _ in range(halvings):
                if power in (1, number - 1):
                    break
                power = pow(power, 2, number)
            if power not in (1, number - 1):
                break
        else:
            return number


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer with one tenant and one RSA key."""

    def __init__(self):
        first, second = prime(1024), prime(1024)
        self.modulus, self.secret = first * second, pow(65537, -1, (first - 1) * (second - 1))
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                numbers = {name: base64url(number.to_bytes((number.bit_length() + 7) // 8, "big")) for name, number in [("n", issuer.modulus), ("e", 65537)]}
                documents = {
                    "/tenant/v2.0/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": issuer.url + "/keys"},
                    "/tenant/v2.0/keys": {"keys": [{"kty": "RSA", "use": "sig", "kid": "one", **numbers}]},
                }
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.base}/tenant/v2.0"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, **claims):
        claims = {"iss": self.url, "aud": "api://orders", "sub": "customer", "exp": int(time.time()) + 300, **claims}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in [{"alg": "RS256", "kid": "one"}, claims])
        size = (self.modulus.bit_length() + 7) // 8
        padded = gateway.padded(signed.encode(), size)
        signature = pow(int.from_bytes(padded, "big"), self.secret, self.modulus).to_bytes(size, "big")
        return f"Bearer {signed}.{base64url(signature)}"

    def values(self):
        return {
            "waybill-queue-url": "http://127.0.0.1:9/orders", "waybill-queue-key": "local", "waybill-issuer": self.url, "waybill-audience": "api://orders",
            "waybill-openid-config": f"{self.url}/.well-known/openid-configuration", "waybill-tenant": "tenant",
        }

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Ways(unittest.TestCase):
    def front(self, **options):
        front = Front(**options)
        self.addCleanup(front.close)
        return front

    def local(self, front, **settings):
        local = Local(front, **settings)
        self.addCleanup(local.close)
        return local

    def heard(self, *arguments):
        heard = Heard(*arguments)
        self.addCleanup(heard.close)
        return heard

    def issuer(self):
        issuer = Issuer()
        self.addCleanup(issuer.close)
        return issuer

    def problem(self, answer, status, outcome=None):
        self.assertEqual((answer.status, answer.headers["content-type"].split(";")[0]), (status, "application/problem+json"), answer.text)
        self.assertEqual((answer.json()["status"], answer.json().get("outcome")), (status, outcome), answer.text)
        return answer


class ThroughTheFunction(Ways):
    def test_an_order_through_the_gateway_is_completed_and_followed_through_it(self):
        front = self.front()
        self.local(front)

        accepted = front.ask("POST", "/waybill/orders", ORDER)

        self.assertEqual(accepted.status, 202, accepted.text)
        tracking_id = accepted.json()["trackingId"]
        location = urllib.parse.urlsplit(accepted.headers["location"])
        self.assertEqual((f"{location.scheme}://{location.netloc}", location.path), (front.url, f"/waybill/orders/{tracking_id}/status"))
        status = eventually("it is completed", lambda: next((body for body in [front.ask("GET", accepted.headers["location"]).json()] if body["status"] == "completed"), None))
        self.assertEqual(status["trackingId"], tracking_id)

    def test_a_subscription_is_the_one_that_the_gateway_knows_and_not_what_a_client_writes(self):
        front = self.front()
        self.local(front, RATE_LIMIT="1/60s")

        self.assertEqual(front.ask("POST", "/waybill/orders", ORDER).status, 202)
        forged = front.ask("POST", "/waybill/orders", ORDER.replace("A-1001", "A-1002"), X_Subscription_Id="subscription-c")
        other = front.ask("POST", "/waybill/orders", ORDER.replace("A-1001", "A-1003"), key="key-of-b", X_Subscription_Id="subscription-a")

        self.problem(forged, 429, "not_accepted")
        self.assertEqual(other.status, 202, other.text)

    def test_a_request_without_a_subscription_key_is_a_401_that_recorded_nothing(self):
        app = self.heard(200)
        front = self.front(backend=app.url)

        answer = self.problem(front.ask("POST", "/waybill/orders", ORDER, key=None), 401)

        self.assertIn("AzureApiManagementKey", answer.headers["www-authenticate"])
        self.assertEqual(app.requests, [])

    def test_the_101st_request_is_a_429_and_reading_an_order_never_is(self):
        front = self.front()
        self.local(front)
        accepted = front.ask("POST", "/waybill/orders", ORDER)

        order, status = f"/waybill/orders/{accepted.json()['trackingId']}", accepted.headers["location"]
        codes = {front.ask("GET", url).status for url in (order, status) for _ in range(101)}
        lists = {front.ask("GET", "/waybill/orders").status for _ in range(99)}
        refused = self.problem(front.ask("POST", "/waybill/orders", ORDER), 429)

        self.assertEqual((codes, lists), ({200}, {200}))
        self.assertTrue(1 <= int(refused.headers["retry-after"]) <= 60)
        self.assertEqual([front.ask("GET", url).status for url in (order, status)], [200, 200])
        self.problem(front.ask("DELETE", order), 429)
        self.assertEqual(front.ask("POST", "/waybill/orders", ORDER, key="key-of-b").status, 202)

    def test_a_token_is_checked_by_the_gateway_and_by_the_handler(self):
        issuer = self.issuer()
        for token in ("issuer", "entra"):
            with self.subTest(token):
                front = self.front(token=token, values=issuer.values(), entra=issuer.base)
                self.local(front, AUTH_ISSUER=issuer.url, AUTH_AUDIENCE="api://orders")

                for wrong in [{}, {"Authorization": issuer.token(aud="api://other")}, {"Authorization": issuer.token(exp=1)},
                              {"Authorization": issuer.token(iss=issuer.base + "/other/v2.0")}, {"Authorization": issuer.token()[:-4] + "AAAA"}]:
                    answer = self.problem(front.ask("POST", "/waybill/orders", ORDER, **wrong), 401)
                    self.assertEqual(answer.headers["www-authenticate"], 'Bearer realm="waybill"')
                accepted = front.ask("POST", "/waybill/orders", ORDER, Authorization=issuer.token())

                self.assertEqual(accepted.status, 202, accepted.text)
                mine = front.ask("GET", accepted.headers["location"], Authorization=issuer.token())
                others = front.ask("GET", accepted.headers["location"], Authorization=issuer.token(sub="another"))
                self.assertEqual((mine.status, others.status), (200, 404), mine.text)

    def test_an_app_that_is_down_or_silent_is_a_problem_with_outcome_unknown(self):
        silent = self.heard(None)
        for backend in ("http://127.0.0.1:9/api", silent.url):
            front = self.front(backend=backend, second=0.005)
            answer = self.problem(front.ask("POST", "/waybill/orders", ORDER), 500, "unknown")
            self.assertEqual(answer.headers["retry-after"], "5")

    def test_five_errors_of_the_app_open_the_circuit_and_a_503_with_a_reason_does_not(self):
        for status, asked in [(500, 5), (503, 9)]:
            app = self.heard(status)
            front = self.front(backend=app.url)

            answers = [front.ask("POST", "/waybill/orders", ORDER) for _ in range(9)]

            self.assertEqual(len(app.requests), asked)
            if status == 500:
                self.problem(answers[-1], 503, "unknown")

    def test_a_problem_of_the_handler_passes_unchanged(self):
        front = self.front()
        self.local(front)

        answer = self.problem(front.ask("POST", "/waybill/orders", "{}"), 400)

        self.assertEqual(answer.json()["type"], "urn:problem-type:waybill:invalid-order")

    def test_the_host_key_goes_to_the_app_and_the_subscription_key_does_not(self):
        app = self.heard(202)
        front = self.front(backend=app.url, credentials={"x-functions-key": "host-key"})

        front.ask("POST", "/waybill/orders", ORDER)

        (path, headers, body), = app.requests
        self.assertEqual((path, headers["x-functions-key"], headers["x-subscription-id"], body), ("/orders", "host-key", "subscription-a", ORDER))
        self.assertNotIn("ocp-apim-subscription-key", headers)

    def test_a_subscription_key_in_the_query_is_taken_and_does_not_reach_the_app(self):
        app = self.heard(200)
        front = self.front(backend=app.url)

        for query in ("?limit=1&subscription%2Dkey=key-of-a&status=failed", "?subscription-key=key-of-a"):
            self.assertEqual(front.ask("GET", f"/waybill/orders{query}", key=None).status, 200)
        self.problem(front.ask("GET", "/waybill/orders?subscription-key=of-nobody", key=None), 401)

        self.assertEqual([path for path, _, _ in app.requests], ["/orders?limit=1&status=failed", "/orders"])
        self.assertEqual([headers["x-subscription-id"] for _, headers, _ in app.requests], ["subscription-a"] * 2)

    def test_a_path_that_no_operation_has_is_a_404(self):
        self.problem(self.front().ask("GET", "/waybill/customers"), 404)


class FirstOrder(Ways):
    """deploy/first-order.sh, which ends each deployment."""

    def sent(self, url, *headers, **environment):
        command = [str(gateway.ROOT / "deploy/first-order.sh"), url, *headers]
        environment = {"PATH": os.environ["PATH"], "PATIENCE": "30", "PAUSE": "0.1", **environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def test_it_follows_its_order_to_the_end_past_the_gateway_and_through_it(self):
        front = self.front()
        self.local(front)

        for url, headers in [(front.options["backend"], ["x-functions-key: any"]), (f"{front.url}/waybill", ["Ocp-Apim-Subscription-Key: key-of-a", "X-Other: a b"])]:
            ran = self.sent(url, *headers)
            self.assertEqual((ran.returncode, ran.stdout.splitlines()[-1:]), (0, ["completed"]), ran.stderr)

    def test_an_order_of_its_own_is_a_new_one_in_each_run(self):
        worker = self.heard(200)
        front = self.front()
        self.local(front, FULFILLMENT_URL=f"{worker.url}/work", ORDER_SCHEMA="examples/report.schema.json")
        report = (gateway.ROOT / "examples/report.json").read_text()

        for order in (report, "@" + str(gateway.ROOT / "examples/report.json")):
            ran = self.sent(front.options["backend"], "x-functions-key: any", ORDER=order)
            self.assertEqual((ran.returncode, ran.stdout.splitlines()[-1:]), (0, ["completed"]), ran.stderr)

        self.assertEqual([json.loads(body) for _, _, body in worker.requests], [json.loads(report)] * 2)

    def test_it_fails_at_once_where_the_order_is_refused_for_good_or_cannot_be_read(self):
        front = self.front()
        self.local(front, FULFILLMENT_URL="http://127.0.0.1:9/work", ORDER_SCHEMA="examples/report.schema.json")
        url = front.options["backend"]

        built_in = self.sent(url)
        compressed = self.sent(url, "Content-Encoding: gzip")
        missing = self.sent(url, ORDER="@no-such-file.json")

        self.assertEqual([ran.returncode for ran in (built_in, compressed, missing)], [1, 1, 1])
        self.assertRegex(built_in.stderr, "^refused, 400: .*invalid-order")
        self.assertRegex(compressed.stderr, "^refused, 415: .*unsupported-media-type")
        self.assertIn("no-such-file.json", missing.stderr)

    def test_what_a_new_app_may_answer_is_asked_again_and_a_refusal_for_good_is_not(self):
        for refusal in (400, 409, 413, 415, 422):
            with self.subTest(refusal):
                app = self.heard(401, 403, 404, 429, 500, 503, refusal)

                ran = self.sent(app.url)

                self.assertEqual((ran.returncode, len(app.requests)), (1, 7), ran.stderr)
                self.assertEqual(len({(headers["idempotency-key"], body) for _, headers, body in app.requests}), 1)

    def test_a_token_goes_with_the_order_and_with_each_look_at_it(self):
        issuer, front = self.issuer(), self.front()
        self.local(front, AUTH_ISSUER=issuer.url, AUTH_AUDIENCE="api://orders")

        ran = self.sent(front.options["backend"], f"Authorization: {issuer.token()}")

        self.assertEqual((ran.returncode, ran.stdout.splitlines()[-1:]), (0, ["completed"]), ran.stderr)

    def test_it_fails_where_the_order_fails_is_refused_or_nothing_answers(self):
        front = self.front()
        self.local(front, FULFILLMENT_URL=f"{self.heard(400).url}/work")

        failed = self.sent(front.options["backend"])
        refused = self.sent(f"{front.url}/waybill", PATIENCE="1")
        silent = self.sent("http://127.0.0.1:9/api", PATIENCE="1")

        self.assertEqual([ran.returncode for ran in (failed, refused, silent)], [1, 1, 1], failed.stdout)
        self.assertIn('"status":"failed"', failed.stderr)
        self.assertIn("unauthorized", refused.stderr)


class StraightToTheQueue(Ways):
    def test_the_message_is_the_envelope_with_the_text_of_the_client(self):
        queue = self.heard(201)
        front = self.front(sender="identity")
        front.options["values"]["waybill-queue-url"] = f"{queue.url}/orders"
        front = self.front(sender="identity", values=front.options["values"])

        accepted = front.ask("POST", "/waybill-queue/orders", EXACT)

        self.assertEqual((accepted.status, accepted.headers["retry-after"]), (202, "30"), accepted.text)
        (path, headers, body), = queue.requests
        tracking_id = accepted.json()["trackingId"]
        self.assertEqual((path, headers["content-type"]), ("/orders/messages", "application/json"))
        self.assertEqual(headers["authorization"], "Bearer token-for-https://servicebus.azure.net/")
        self.assertEqual(json.loads(headers["brokerproperties"]), {"MessageId": tracking_id})
        self.assertEqual(accepted.headers["location"], f"/waybill/orders/{tracking_id}/status")
        self.assertTrue(body.startswith(f'{{"trackingId":"{tracking_id}","data":{EXACT},"metadata":{{'), body)
        metadata = json.loads(body)["metadata"]
        self.assertRegex(metadata.pop("receivedAt"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$")
        self.assertEqual(metadata, {"apiName": "Waybill, straight to the queue", "operationName": "submitOrder", "subscriptionId": "subscription-a", "owner": None})

    def straight(self, **settings):
        """A host, and a gateway that knows the address of its queue."""
        first = self.front()
        local = self.local(first, **settings)
        return local, self.front(backend=first.options["backend"], values=first.options["values"])

    def test_the_queue_of_the_host_takes_what_the_gateway_signs_and_loses_nothing(self):
        local, front = self.straight()

        accepted = front.ask("POST", "/waybill-queue/orders", EXACT)

        # Without the setting the message is kept whole in quarantine, and the status is a 404.
        self.assertEqual(accepted.status, 202, accepted.text)
        (kept,) = eventually("it is in quarantine", lambda: local.operate("quarantine", "list") or None)
        self.assertIn(EXACT, str(local.operate("quarantine", "show", kept["id"])[0]).replace("\\\\", "\\"))
        self.assertEqual(front.ask("GET", front.url + accepted.headers["location"]).status, 404)

    def ended(self, front, accepted, **headers):
        self.assertEqual(accepted.status, 202, accepted.text)

        def status():
            answer = front.ask("GET", front.url + accepted.headers["location"], **headers)
            if answer.status == 404:
                self.assertEqual(answer.headers["retry-after"], "5")
                return None
            return next((body for body in [answer.json()] if body["status"] in ("completed", "failed")), None)

        return eventually("it has ended", status)

    def test_an_adopted_order_is_followed_to_its_end_and_an_invalid_one_fails_visibly(self):
        local, front = self.straight(ADOPT_GATEWAY_ORDERS="anonymous")

        valid = self.ended(front, front.ask("POST", "/waybill-queue/orders", ORDER))
        invalid = self.ended(front, front.ask("POST", "/waybill-queue/orders", EXACT))

        self.assertEqual((valid["status"], valid["orderId"]), ("completed", "A-1001"), valid)
        self.assertEqual((invalid["status"], invalid["error"]["code"]), ("failed", "invalid_order"), invalid)
        self.assertEqual(local.operate("orders", "show", invalid["trackingId"])[0]["order"], EXACT)

    def test_an_adopted_order_belongs_to_the_bearer_of_its_token(self):
        issuer = self.issuer()
        for token in ("issuer", "entra"):
            with self.subTest(token):
                first = self.front(token=token, values=issuer.values(), entra=issuer.base)
                self.local(first, AUTH_ISSUER=issuer.url, AUTH_AUDIENCE="api://orders", ADOPT_GATEWAY_ORDERS="token")
                front = self.front(**{name: first.options[name] for name in ("token", "values", "entra", "backend")})

                accepted = front.ask("POST", "/waybill-queue/orders", ORDER, Authorization=issuer.token())

                self.assertEqual(self.ended(front, accepted, Authorization=issuer.token())["status"], "completed")
                location = front.url + accepted.headers["location"]
                self.assertEqual(front.ask("GET", location, Authorization=issuer.token(sub="another")).status, 404)

    def test_a_refusal_of_the_queue_is_not_accepted_and_no_answer_is_unknown(self):
        _, front = self.straight()
        values = front.options["values"]

        unsigned = self.front(values={**values, "waybill-queue-key": "another"}).ask("POST", "/waybill-queue/orders", ORDER)
        broken = self.front(values={**values, "waybill-queue-url": f"{self.heard(500).url}/orders"}).ask("POST", "/waybill-queue/orders", ORDER)
        down = self.front(values={**values, "waybill-queue-url": "http://127.0.0.1:9/orders"}).ask("POST", "/waybill-queue/orders", ORDER)

        for answer, outcome in [(unsigned, "not_accepted"), (broken, "unknown"), (down, "unknown")]:
            self.assertEqual(self.problem(answer, 503, outcome).headers["retry-after"], "5")

    def test_what_is_no_object_or_too_large_is_never_sent(self):
        queue = self.heard(201)
        front = self.front(values={"waybill-queue-url": f"{queue.url}/orders", "waybill-queue-key": "local"})

        for body, status in [("", 400), ("[1]", 400), ('{"orderId":', 400), (json.dumps({"note": "é" * 200_000}, ensure_ascii=False), 413)]:
            self.problem(front.ask("POST", "/waybill-queue/orders", body), status)
        self.assertEqual(queue.requests, [])

    def test_a_token_is_needed_here_too(self):
        issuer, queue = self.issuer(), self.heard(201)
        values = {**issuer.values(), "waybill-queue-url": f"{queue.url}/orders"}
        front = self.front(token="issuer", values=values)

        self.problem(front.ask("POST", "/waybill-queue/orders", ORDER), 401)
        self.assertEqual(queue.requests, [])
        self.assertEqual(front.ask("POST", "/waybill-queue/orders", ORDER, Authorization=issuer.token()).status, 202)

    def test_both_ways_share_one_limit(self):
        queue = self.heard(201)
        front = self.front(backend=queue.url, values={"waybill-queue-url": f"{queue.url}/orders", "waybill-queue-key": "local"})

        codes = [front.ask("POST", f"/{api}/orders", ORDER).status for api in ["waybill", "waybill-queue"] * 50]

        self.assertEqual(set(codes), {201, 202})
        for api in ("waybill", "waybill-queue"):
            self.problem(front.ask("POST", f"/{api}/orders", ORDER), 429)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "--verbose", *sys.argv[1:]])
