"""The policies of infra/apim as infra/front.bicep puts them together: a token, a sender and the section on-error take the places of three comments."""

import itertools

FOLDER = "infra/apim/"
POLICIES = ["orders", "straight-to-queue"]
TOKENS = {"none": "", "entra": "token-entra", "issuer": "token-issuer"}
SENDERS = {"identity": "sender-identity", "key": "sender-key"}


def assembled(files, policy, token, sender):
    """The text that is deployed for one choice of parameters."""
    text = files[f"{FOLDER}{policy}.xml"]
    for place, name in [("<!-- token -->", TOKENS[token]), ("<!-- sender -->", SENDERS[sender]), ("<!-- on-error -->", "on-error")]:
        text = text.replace(place, files[f"{FOLDER}{name}.xml"] if name else "")
    return text


def every(files):
    """All policies that a deployment can have, by name and choice."""
    for policy, token, sender in itertools.product(POLICIES, TOKENS, SENDERS):
        yield f"{policy} with token {token} and sender {sender}", assembled(files, policy, token, sender)
