"""The part of C# that the expressions of API Management's policies use here. What is unknown is an error, not a guess."""

import base64
import hashlib
import hmac
import json
import re
import time
import urllib.parse
import uuid
from datetime import datetime, timezone

TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|\d+|[A-Za-z_]\w*|\?\.|[=!<>]=|&&|\|\||[-+!<>?:.,;(){}\[\]=]')
CASTS = {"string", "bool", "int", "IResponse", "Jwt"}


class Unknown(Exception):
    """An expression that this evaluator cannot read, or whose evaluation failed."""


def evaluate(text, context):
    """The value of `@(…)` or `@{…}`; any other text is itself."""
    text = text.strip()
    if text.startswith("@(") and text.endswith(")"):
        return Parser(text[2:-1], context).whole(Parser.expression)
    if text.startswith("@{") and text.endswith("}"):
        return Parser(text[2:-1], context).whole(Parser.statements)
    return text


class Returned(Exception):
    """The value of a `return`."""


class Parser:
    """Reads and evaluates at once. `on` is false in a branch that is not taken, which is read and not evaluated."""

    def __init__(self, text, context):
        self.tokens, at = [], 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if not found:
                raise Unknown(f"unknown text: {text[at:at + 20]!r}")
            if not found[0].isspace():
                self.tokens.append(found[0])
            at = found.end()
        self.at, self.on = 0, True
        self.variables = {"context": context}

    def whole(self, rule):
        try:
            value = rule(self)
        except Returned as returned:
            return returned.args[0]
        if self.at < len(self.tokens):
            raise Unknown(f"unknown after the end: {self.tokens[self.at:]}")
        return value

    def peek(self, ahead=0):
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def take(self, wanted=None):
        token = self.peek()
        if wanted is not None and token != wanted:
            raise Unknown(f"{wanted!r} is missing before {token!r}")
        self.at += 1
        return token

    def statements(self):
        while self.peek() not in ("", "}"):
            if self.peek() == "var":
                self.take()
                name = self.take()
                self.take("=")
                self.variables[name] = self.expression()
                self.take(";")
            elif self.peek() == "return":
                self.take()
                value = self.expression()
                self.take(";")
                raise Returned(value)
            elif self.peek() == "try":
                self.take()
                tried = self.block()
                self.take("catch")
                handler = self.block()
                for start, end in (tried, handler):
                    inner = Parser("", self.variables["context"])
                    inner.tokens, inner.variables = self.tokens[start:end], self.variables
                    try:
                        inner.statements()
                        break
                    except (Returned, Unknown):
                        raise
                    except Exception:
                        if start == handler[0]:
                            raise
            else:
                self.expression()
                self.take(";")

    def block(self):
        """The places of a block's first and last token, without the braces."""
        self.take("{")
        start, depth = self.at, 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
        return start, self.at - 1

    def skipped(self, rule):
        before, self.on = self.on, False
        try:
            rule(self)
        finally:
            self.on = before

    def expression(self):
        condition = self.either()
        if self.peek() != "?":
            return condition
        self.take()
        if condition:
            value = self.expression()
            self.take(":")
            self.skipped(Parser.expression)
        else:
            self.skipped(Parser.expression)
            self.take(":")
            value = self.expression()
        return value

    def either(self):
        value = self.both()
        while self.peek() == "||":
            self.take()
            if value:
                self.skipped(Parser.both)
            else:
                value = self.both()
        return value

    def both(self):
        value = self.equality()
        while self.peek() == "&&":
            self.take()
            if value:
                value = self.equality()
            else:
                self.skipped(Parser.equality)
        return value

    def equality(self):
        value = self.relation()
        while self.peek() in ("==", "!="):
            is_equal = self.take() == "=="
            value = (value == self.relation()) == is_equal
        return value

    def relation(self):
        value = self.sum()
        while self.peek() in ("<", ">", "<=", ">="):
            operator, other = self.take(), self.sum()
            if self.on:
                value = {"<": value < other, ">": value > other, "<=": value <= other, ">=": value >= other}[operator]
        return value

    def sum(self):
        value = self.unary()
        while self.peek() == "+":
            self.take()
            other = self.unary()
            value = value + other if self.on else None
        return value

    def unary(self):
        if self.peek() == "!":
            self.take()
            return not self.unary()
        if self.peek() == "(" and self.peek(1) in CASTS and self.peek(2) == ")":
            self.at += 3
            return self.unary()
        return self.postfix()

    def postfix(self):
        value = self.primary()
        while True:
            token = self.peek()
            if token in (".", "?."):
                self.take()
                name = self.take()
                generic = ""
                if self.peek() == "<" and self.peek(2) == ">" and self.peek(3) == "(":
                    generic = self.peek(1)
                    self.at += 3
                if not self.on:
                    continue
                if value is None and token == "?.":
                    continue
                value = member(value, name + (f"<{generic}>" if generic else ""))
            elif token == "(":
                arguments = self.arguments()
                if self.on:
                    value = value(*arguments)
            elif token == "[":
                self.take()
                key = self.expression()
                self.take("]")
                if self.on:
                    value = value[key]
            else:
                return value

    def arguments(self):
        self.take("(")
        found = []
        while self.peek() != ")":
            if self.peek(1) == ":" and self.peek(2) != ":":
                self.at += 2
            found.append(self.expression())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return found

    def primary(self):
        token = self.take()
        if token.startswith('"'):
            return json.loads(token)
        if token.isdigit():
            return int(token)
        if token in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[token]
        if token == "(":
            value = self.expression()
            self.take(")")
            return value
        if token == "new":
            kind = self.take()
            arguments = self.arguments()
            if kind not in MADE:
                raise Unknown(f"new {kind}")
            return MADE[kind](*arguments) if self.on else None
        if token in self.variables:
            return self.variables[token]
        if token in STATIC:
            return STATIC[token]
        raise Unknown(f"unknown name: {token!r}")


def member(value, name):
    if isinstance(value, str):
        value = Text(value)
    members = getattr(value, "MEMBERS", None)
    if members is None or name not in members:
        raise Unknown(f"{type(value).__name__} has no {name}")
    return members[name](value)


class Text(str):
    MEMBERS = {
        "Contains": lambda text: lambda part: part in text,
        "Insert": lambda text: lambda at, more: text[:at] + more + text[at:],
        "Remove": lambda text: lambda at, count: text[:at] + text[at + count:],
        "ToString": lambda text: lambda: str(text),
    }


class JRaw:
    def __init__(self, text):
        self.text = text


class JProperty:
    def __init__(self, name, value):
        self.name, self.value = name, value


class JObject:
    def __init__(self, *properties):
        self.properties = properties

    def write(self, indent, depth=0):
        def text(value):
            if isinstance(value, JObject):
                return value.write(indent, depth + 1)
            return value.text if isinstance(value, JRaw) else json.dumps(value, ensure_ascii=False)

        gap, end = ("\n" + "  " * (depth + 1), "\n" + "  " * depth) if indent else ("", "")
        colon = ": " if indent else ":"
        members = [gap + json.dumps(found.name) + colon + text(found.value) for found in self.properties]
        return "{" + ",".join(members) + end + "}"

    MEMBERS = {"ToString": lambda value: lambda formatting="Indented": value.write(formatting != "None")}


class JObjectType:
    """Stricter than Newtonsoft, which also takes single quotes and comments."""

    @staticmethod
    def parse(text):
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("no object")
        return value

    MEMBERS = {"Parse": lambda _: JObjectType.parse}


class Moment:
    def __init__(self, seconds):
        self.seconds = seconds

    def write(self, form):
        if form != "o":
            raise Unknown(f"the format {form}")
        at = datetime.fromtimestamp(int(self.seconds), timezone.utc)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{int(self.seconds % 1 * 10_000_000):07}Z"

    MEMBERS = {
        "ToString": lambda value: value.write,
        "AddMinutes": lambda value: lambda minutes: Moment(value.seconds + 60 * minutes),
        "ToUnixTimeSeconds": lambda value: lambda: Number(value.seconds),
    }


class Number(int):
    MEMBERS = {"ToString": lambda value: lambda: str(int(value))}


class Bytes(bytes):
    MEMBERS = {}


class Mac:
    def __init__(self, key):
        self.key = key

    MEMBERS = {"ComputeHash": lambda value: lambda data: Bytes(hmac.new(value.key, data, hashlib.sha256).digest())}


class Static:
    def __init__(self, **members):
        self.MEMBERS = {name: lambda _, value=value: value for name, value in members.items()}


class Clock:
    MEMBERS = {"UtcNow": lambda _: Moment(time.time())}


class Utf8:
    MEMBERS = {
        "GetBytes": lambda _: lambda text: Bytes(text.encode()),
        "GetByteCount": lambda _: lambda text: len(text.encode()),
    }


def url_encoded(text):
    return urllib.parse.quote_plus(text, safe="-_.!*()")


MADE = {"JObject": JObject, "JProperty": JProperty, "JRaw": JRaw, "HMACSHA256": Mac}
STATIC = {
    "JObject": JObjectType(),
    "DateTime": Clock(),
    "DateTimeOffset": Clock(),
    "Guid": Static(NewGuid=lambda: Text(uuid.uuid4())),
    "WebUtility": Static(UrlEncode=url_encoded),
    "Convert": Static(ToBase64String=lambda data: base64.b64encode(data).decode()),
    "Encoding": Static(UTF8=Utf8()),
    "Newtonsoft": Static(Json=Static(Formatting=Static(**{"None": "None"}))),
}
