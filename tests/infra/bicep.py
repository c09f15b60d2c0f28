"""Bicep files as plain values, and the names and kinds that the compiler would check."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter
import tree_sitter_bicep

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
TYPES = json.loads(Path(__file__).with_name("azure-types.json").read_text())
# Members of every resource that are the language's own, or Azure's for every type.
COMMON = {"parent", "scope", "dependsOn", "tags", "location", "name"}


class Expression(str):
    """A value that only a deployment knows, as its text."""


@dataclass
class Declaration:
    kind: str
    symbol: str
    type: str = ""
    body: dict = field(default_factory=dict)
    decorators: list = field(default_factory=list)
    text: str = ""
    existing: bool = False


def parse(text):
    """The declarations of a file; `ValueError` where it cannot be read."""
    root = PARSER.parse(text.encode()).root_node
    if root.has_error:
        raise ValueError("the file cannot be parsed")
    declarations, decorators = [], []
    for node in root.named_children:
        if node.type == "decorators":
            decorators = [said(child).lstrip("@") for child in node.named_children]
            continue
        if node.type.endswith("_declaration"):
            declarations.append(declare(node, decorators))
        if node.type != "comment":
            decorators = []
    return declarations


def declare(node, decorators):
    children = node.named_children
    kind = node.type.removesuffix("_declaration")
    text = said(node)
    found = Declaration(kind, said(children[0]), decorators=decorators, text=text)
    if kind in ("resource", "module"):
        found.type = value(children[1])
        found.existing = bool(re.match(r"resource\s+\w+\s+'[^']*'\s+existing\b", text))
        body = children[2]
        if body.type == "if_statement":
            body = next(child for child in body.named_children if child.type == "object")
        found.body = value(body)
    return found


def said(node):
    return node.text.decode()


def value(node):
    if node.type == "object":
        members = [child for child in node.named_children if child.type == "object_property"]
        return {str(value(member.named_children[0])) if member.named_children[0].type == "string" else said(member.named_children[0]):
                value(member.named_children[1]) for member in members}
    if node.type == "array":
        return [value(child) for child in node.named_children if child.type != "comment"]
    if node.type == "string" and not any(child.type == "interpolation" for child in node.named_children):
        return said(node)[1:-1].replace("\\'", "'")
    if node.type == "number":
        return int(said(node))
    if node.type == "boolean":
        return said(node) == "true"
    return Expression(said(node))


def mistakes(type_of, found, place):
    """What is unknown, missing, of the wrong kind or out of bounds."""
    if isinstance(found, Expression):
        return
    kind = type_of["kind"]
    kinds = {"object": dict, "array": list, "string": str, "enum": str, "int": int, "bool": bool}
    if not isinstance(found, kinds[kind]) or (kind == "int" and isinstance(found, bool)):
        yield f"{place} is no {kind}"
        return
    if kind == "object":
        properties = dict(type_of["properties"])
        if "discriminator" in type_of:
            variant = type_of["variants"].get(found.get(type_of["discriminator"]))
            if variant is None:
                yield f"{place}.{type_of['discriminator']} names no variant"
                return
            properties |= variant["properties"]
            properties.setdefault(type_of["discriminator"], {"kind": "string"})
        for name, member in found.items():
            if name in properties:
                yield from mistakes(properties[name], member, f"{place}.{name}")
            elif not type_of.get("open") and not (place.count(".") == 0 and name in COMMON):
                yield f"{place}.{name} is unknown"
        for name, member in properties.items():
            if member.get("required") and name not in found:
                yield f"{place}.{name} is missing"
    if kind == "array":
        for index, item in enumerate(found):
            if "items" in type_of:
                yield from mistakes(type_of["items"], item, f"{place}[{index}]")
    if kind in ("string", "array") and not type_of.get("minLength", 0) <= len(found) <= type_of.get("maxLength", len(found)):
        yield f"{place} has the wrong length"
    if kind == "string" and "pattern" in type_of and not re.search(type_of["pattern"], found):
        yield f"{place} does not match {type_of['pattern']}"
    if kind == "int" and not type_of.get("minValue", found) <= found <= type_of.get("maxValue", found):
        yield f"{place} is out of bounds"
    # An open enumeration takes any text, so the compiler is silent about a misspelt one; every text here is one that it knows.
    if kind == "enum" and found not in type_of["values"]:
        yield f"{place} is none of {type_of['values']}"
