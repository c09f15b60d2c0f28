"""A small API Management: reads infra/apim, infra/front.bicep and docs/openapi.json, and does what they say.

What it does not play: products, several regions. It has no identity, and writes the resource that a policy asks
a token for where the token would stand. An element, attribute or expression that it does not know is an error at the start or a 500.
"""

import base64
import hashlib
import http.client
import json
import re
import sys
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import csharp

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "infra"))
import policies  # noqa: E402

SECTIONS = ["inbound", "backend", "outbound", "on-error"]


class Failed(Exception):
    """An error of a policy or a built-in step: on-error answers."""

    def __init__(self, status, headers=()):
        super().__init__(status)
        self.status, self.headers = status, dict(headers)


class Answered(Exception):
    """A return-response."""


class Headers(dict):
    """Names in lower case."""

    MEMBERS = {"GetValueOrDefault": lambda headers: lambda name, default: headers.get(name.lower(), default)}


class Record:
    """Named values that an expression may read."""

    def __init__(self, **values):
        self.__dict__.update(values)
        self.MEMBERS = {name: (lambda found, name=name: getattr(found, name)) for name in values}


class Body:
    def __init__(self, data):
        self.data = data

    MEMBERS = {"As<string>": lambda body: lambda preserve=False: csharp.Text(body.data.decode(errors="replace"))}


class Variables(dict):
    MEMBERS = {"ContainsKey": lambda variables: lambda name: name in variables}


class Gateway:
    def __init__(self, options):
        self.options = options
        self.subscriptions = options["subscriptions"]
        self.counts, self.lock = {}, threading.Lock()
        files = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "infra").rglob("*") if path.is_file()}
        front = files["infra/front.bicep"]
        self.backend_id = re.search(r"backends@[^']*' = \{\s+parent: service\s+name: '([^']+)'", front)[1]
        document = json.loads((ROOT / "docs/openapi.json").read_text())
        operations = [(method.upper(), path, operation["operationId"]) for path, methods in document["paths"].items() for method, operation in methods.items()]
        direct = re.search(r"name: '(\w+)'\s+properties: \{ displayName: '[^']+', method: '(\w+)', urlTemplate: '([^']+)' \}", front)
        self.breaker = Breaker(front)
        self.apis = []
        for name, policy, known in [("api", "orders", operations), ("directApi", "straight-to-queue", [(direct[2], direct[3], direct[1])])]:
            found = re.search(rf"resource {name} '[^']*' = [^{{]*\{{.*?path: '([^']+)'\s+displayName: '([^']+)'", front, re.S)
            text = policies.assembled(files, policy, options["token"], options["sender"])
            for value in set(re.findall(r"\{\{([^}]+)\}\}", text)):
                text = text.replace("{{" + value + "}}", escape(options["values"][value], {'"': "&quot;"}))
            root = ElementTree.fromstring(text)
            if [section.tag for section in root] != SECTIONS:
                raise ValueError(f"the sections of {policy}")
            self.apis.append((f"/{found[1]}", found[2], known, {section.tag: section for section in root}))

    def answer(self, request):
        """Status, headers and body for one request of a client."""
        path = urllib.parse.urlsplit(request.path).path
        prefix, name, operations, sections = max((api for api in self.apis if (path + "/").startswith(api[0] + "/")), key=lambda api: len(api[0]), default=(None,) * 4)
        if prefix is None:
            return 404, {}, b""
        call = Call(self, request, path[len(prefix):], name, sections)
        try:
            try:
                call.begin(operations)
                for section in SECTIONS[:3]:
                    call.section = section
                    call.run(sections[section])
            except Failed as failed:
                call.fail(failed)
            except csharp.Unknown as unknown:
                print(f"not evaluated: {unknown}", flush=True)
                call.fail(Failed(500))
        except Answered:
            pass
        return call.status, call.headers, call.body

    def seconds(self, element):
        """The timeout of a policy, in which a second may be shorter than usual."""
        return float(element.get("timeout")) * self.options.get("second", 1)

    def count(self, key, calls, period):
        """Seconds until the key may call again; none if it may now."""
        with self.lock:
            started, used = self.counts.get(key, (time.monotonic(), 0))
            if time.monotonic() - started >= period:
                started, used = time.monotonic(), 0
            self.counts[key] = (started, used + 1)
            return None if used < calls else max(1, int(started + period - time.monotonic()))


class Breaker:
    """The circuit breaker of the backend in infra/front.bicep. It opens by answers only: what API Management counts besides is not known."""

    def __init__(self, front):
        rule = front[front.index("circuitBreaker: {"):]
        self.most = int(re.search(r"count: (\d+)", rule)[1])
        self.interval, self.trip = (int(re.search(rf"{name}: 'PT(\d+)S'", rule)[1]) for name in ("interval", "tripDuration"))
        self.ranges = [(int(low), int(high)) for low, high in re.findall(r"\{ min: (\d+), max: (\d+) \}", rule)]
        self.failures, self.opened, self.lock = [], None, threading.Lock()

    def is_open(self):
        with self.lock:
            return self.opened is not None and time.monotonic() - self.opened < self.trip

    def note(self, status):
        if status is None or not any(low <= status <= high for low, high in self.ranges):
            return
        with self.lock:
            now = time.monotonic()
            self.failures = [at for at in self.failures if now - at < self.interval] + [now]
            if len(self.failures) >= self.most:
                self.opened, self.failures = now, []


class Call:
    def __init__(self, gateway, request, path, api, sections):
        self.gateway, self.request, self.path, self.sections = gateway, request, path, sections
        self.request_headers = Headers({name.lower(): value for name, value in request.headers.items()})
        self.request_body = request.body
        self.query = urllib.parse.urlsplit(request.path).query
        self.status, self.headers, self.body = 200, Headers(), b""
        self.backend = None
        self.variables = Variables()
        self.api = api
        self.subscription = None
        self.operation = None

    def begin(self, operations):
        for method, template, operation in operations:
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
            if method == self.request.command and re.fullmatch(pattern, self.path):
                self.operation = operation
        if self.operation is None:
            raise Failed(404)
        key = self.request_headers.get("ocp-apim-subscription-key") or dict(urllib.parse.parse_qsl(self.query)).get("subscription-key")
        if key not in self.gateway.subscriptions:
            raise Failed(401, {"www-authenticate": 'AzureApiManagementKey realm="gateway",name="Ocp-Apim-Subscription-Key",type="header"'})
        self.subscription = csharp.Text(self.gateway.subscriptions[key])

    def context(self):
        return Record(
            Subscription=self.subscription and Record(Id=self.subscription),
            Request=Record(Method=self.request.command, IpAddress=self.request.client_address[0], Body=Body(self.request_body) if self.request_body else None,
                           OriginalUrl=Record(Path=urllib.parse.urlsplit(self.request.path).path), Headers=self.request_headers),
            Response=Record(StatusCode=self.status, Headers=self.headers),
            Variables=self.variables,
            Api=Record(Name=self.api),
            Operation=Record(Name=self.operation),
        )

    def value(self, text):
        return csharp.evaluate(text or "", self.context())

    def run(self, element):
        for child in element:
            if child.tag != "base":
                getattr(self, child.tag.replace("-", "_"))(child)

    def fail(self, failed):
        self.section, self.status, self.headers, self.body = "on-error", failed.status, Headers(failed.headers), b""
        self.run(self.sections["on-error"])

    # The policies, by their names.

    def choose(self, element):
        for branch in element:
            if branch.tag == "otherwise" or self.value(branch.get("condition")):
                self.run(branch)
                return

    def set_variable(self, element):
        self.variables[element.get("name")] = self.value(element.get("value"))

    def set_backend_service(self, element):
        if element.get("backend-id") != self.gateway.backend_id:
            raise Failed(500)
        self.backend = self.gateway.options["backend"]

    def set_header(self, element):
        self.header(element, self.request_headers if self.section in ("inbound", "backend") else self.headers)

    def header(self, element, headers):
        name, action = element.get("name").lower(), element.get("exists-action")
        if action == "delete":
            headers.pop(name, None)
        elif action == "override":
            headers[name] = str(self.value(element.findtext("value")))
        else:
            raise csharp.Unknown(f"exists-action {action}")

    def set_query_parameter(self, element):
        if element.get("exists-action") != "delete":
            raise csharp.Unknown(f"exists-action {element.get('exists-action')}")
        parts = self.query.split("&")
        self.query = "&".join(part for part in parts if urllib.parse.unquote_plus(part.partition("=")[0]) != element.get("name"))

    def rate_limit_by_key(self, element):
        wait = self.gateway.count(self.value(element.get("counter-key")), int(element.get("calls")), int(element.get("renewal-period")))
        if wait is not None:
            raise Failed(429, {element.get("retry-after-header-name").lower(): str(wait)})

    def validate_jwt(self, element):
        issuers = [issuer.text for issuer in element.iter("issuer")]
        self.token(element, element.find("openid-config").get("url"), issuers, int(element.get("clock-skew")))

    def validate_azure_ad_token(self, element):
        tenant = element.get("tenant-id")
        base = self.gateway.options["entra"]
        self.token(element, f"{base}/{tenant}/v2.0/.well-known/openid-configuration", [f"{base}/{tenant}/v2.0"], 300)

    def token(self, element, configuration, issuers, skew):
        status = int(element.get("failed-validation-httpcode"))
        scheme, _, token = self.request_headers.get("authorization", "").partition(" ")
        audiences = [audience.text for audience in element.iter("audience")]
        try:
            claims = verified(token, configuration)
            is_good = scheme == "Bearer" and claims["iss"] in issuers and claims["aud"] in audiences and claims["exp"] + skew > time.time()
            for claim in element.iter("claim"):
                is_good = is_good and claims[claim.get("name")] in [self.value(value.text) for value in claim.iter("value")]
        except (ValueError, KeyError, TypeError):
            is_good = False
        if not is_good:
            raise Failed(status)
        if name := element.get("output-token-variable-name"):
            self.variables[name] = Record(Issuer=csharp.Text(claims["iss"]), Subject=csharp.Text(claims["sub"]))

    def authentication_managed_identity(self, element, headers):
        headers["authorization"] = f"Bearer token-for-{element.get('resource')}"

    def send_request(self, element):
        headers, body = Headers(), b""
        url, method = self.value(element.findtext("set-url")), element.findtext("set-method")
        for child in element:
            if child.tag == "set-header":
                self.header(child, headers)
            elif child.tag == "authentication-managed-identity":
                self.authentication_managed_identity(child, headers)
            elif child.tag == "set-body":
                body = self.value(child.text).encode()
        try:
            status, _, _ = ask(method, url, headers, body, self.gateway.seconds(element))
            sent = Record(StatusCode=status)
        except OSError:
            if element.get("ignore-error") != "true":
                raise Failed(500) from None
            sent = None
        self.variables[element.get("response-variable-name")] = sent

    def forward_request(self, element):
        headers = Headers(self.request_headers)
        for name in ("host", "connection", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        headers["x-forwarded-for"] = ", ".join(filter(None, [headers.get("x-forwarded-for"), self.request.client_address[0]]))
        headers |= self.gateway.options.get("credentials", {})
        url = self.backend + self.path + (f"?{self.query}" if self.query else "")
        if self.gateway.breaker.is_open():
            raise Failed(503)
        # A body that is not buffered has no known length, and leaves in chunks.
        is_whole = element.get("buffer-request-body") == "true" or not self.request_body
        body = self.request_body if is_whole else iter([self.request_body])
        try:
            self.status, self.headers, self.body = ask(self.request.command, url, headers, body, self.gateway.seconds(element))
        except OSError:
            self.status = None
        self.gateway.breaker.note(self.status)
        if self.status is None:
            raise Failed(500)

    def return_response(self, element):
        status, headers, body = 200, Headers(), b""
        for child in element:
            if child.tag == "set-status":
                status = int(self.value(child.get("code")))
            elif child.tag == "set-header":
                self.header(child, headers)
            elif child.tag == "set-body":
                body = self.value(child.text).encode()
        self.status, self.headers, self.body = status, headers, body
        raise Answered


def ask(method, url, headers, body, timeout):
    """One request, in chunks if the body is an iterator; `OSError` where there is no answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body or None, dict(headers))
        answer = connection.getresponse()
        kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server")}
        return answer.status, Headers(kept), answer.read()
    except http.client.HTTPException as error:
        raise OSError(error) from error
    finally:
        connection.close()


def verified(token, configuration):
    """The claims of a token that a key of the issuer has signed (RS256)."""
    head, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    with urllib.request.urlopen(configuration, timeout=10) as answer:
        keys_url = json.load(answer)["jwks_uri"]
    with urllib.request.urlopen(keys_url, timeout=10) as answer:
        keys = {key["kid"]: key for key in json.load(answer)["keys"]}
    head = json.loads(head)
    if head["alg"] != "RS256":
        raise ValueError("alg")
    modulus, exponent = (int.from_bytes(base64.urlsafe_b64decode(keys[head["kid"]][name] + "=="), "big") for name in ("n", "e"))
    size = (modulus.bit_length() + 7) // 8
    if pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big") != padded(token.rpartition(".")[0].encode(), size):
        raise ValueError("signature")
    return json.loads(claims)


def padded(message, size):
    """What RS256 signs (RFC 8017, EMSA-PKCS1-v1_5)."""
    digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    return b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest


def serve(options):
    """A running gateway; `server_port` is its port."""
    gateway = Gateway(options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def everything(self):
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = gateway.answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PUT = everything

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
