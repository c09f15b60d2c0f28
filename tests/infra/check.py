"""Checks of infra/, for want of a compiler and of Azure: each has a name, and each is seen to fail on a copy with its mistake."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lxml import etree
from ruamel.yaml import YAML

import bicep
import policies

ROOT = Path(__file__).resolve().parents[2]
CHECKS = []
# Role ids, and the symbol kinds of the scopes at which they may be given.
ROLES = {
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": {"Microsoft.ServiceBus/namespaces/queues"},
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": {"Microsoft.ServiceBus/namespaces/queues"},
    "090c5cfd-751d-490a-894a-3ce6f1109419": {"Microsoft.ServiceBus/namespaces"},
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": {"Microsoft.Storage/storageAccounts"},
    "3913510d-42f4-4e42-8a64-420c390055eb": {"Microsoft.Insights/components"},
    "4633458b-17de-408a-b874-0445c86b69e6": {"Microsoft.KeyVault/vaults/secrets"},
}
CONTRIBUTOR = "00000000-0000-0000-0000-000000000002"
FORBIDDEN = {
    "FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "WEBSITE_RUN_FROM_PACKAGE", "WEBSITE_CONTENTSHARE",
    "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING", "SCM_DO_BUILD_DURING_DEPLOYMENT", "ENABLE_ORYX_BUILD", "WEBSITE_TIME_ZONE", "TZ",
    "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT", "ServiceBusConnection", "AzureWebJobsStorage", "CosmosConnection",
}
# Policies and the sections in which they may stand; children and attributes below.
EVERYWHERE = {"send-request", "return-response", "set-header", "set-body", "set-variable", "set-status", "set-backend-service", "choose", "base"}
SECTIONS = {
    "inbound": EVERYWHERE | {"validate-azure-ad-token", "validate-jwt", "rate-limit-by-key", "rewrite-uri", "set-query-parameter", "authentication-managed-identity"},
    "backend": EVERYWHERE | {"forward-request", "set-query-parameter"},
    "outbound": EVERYWHERE,
    "on-error": EVERYWHERE,
}
ELEMENTS = {
    "validate-azure-ad-token": ({"tenant-id"}, {"failed-validation-httpcode", "output-token-variable-name"}, {"audiences", "required-claims"}),
    "validate-jwt": ({"header-name"}, {"require-scheme", "failed-validation-httpcode", "clock-skew", "output-token-variable-name"}, {"openid-config", "audiences", "issuers"}),
    "openid-config": ({"url"}, set(), set()),
    "required-claims": (set(), set(), {"claim"}),
    "claim": ({"name"}, {"match"}, {"value"}),
    "audiences": (set(), set(), {"audience"}),
    "audience": (set(), set(), set()),
    "issuers": (set(), set(), {"issuer"}),
    "issuer": (set(), set(), set()),
    "rate-limit-by-key": ({"calls", "renewal-period", "counter-key"}, {"retry-after-header-name"}, set()),
    "authentication-managed-identity": ({"resource"}, set(), set()),
    "send-request": ({"response-variable-name"}, {"mode", "timeout", "ignore-error"},
                     {"set-url", "set-method", "set-header", "set-body", "authentication-managed-identity"}),
    "set-url": (set(), set(), set()),
    "set-method": (set(), set(), set()),
    "forward-request": (set(), {"timeout", "buffer-request-body"}, set()),
    "return-response": (set(), set(), {"set-status", "set-header", "set-body"}),
    "set-status": ({"code"}, {"reason"}, set()),
    "set-header": ({"name", "exists-action"}, set(), {"value"}),
    "set-query-parameter": ({"name", "exists-action"}, set(), {"value"}),
    "value": (set(), set(), set()),
    "set-body": (set(), set(), set()),
    "set-variable": ({"name", "value"}, set(), set()),
    "set-backend-service": ({"backend-id"}, set(), set()),
    "choose": (set(), set(), {"when", "otherwise"}),
    "when": ({"condition"}, set(), EVERYWHERE | {"rate-limit-by-key"}),
    "otherwise": (set(), set(), EVERYWHERE),
    "base": (set(), set(), set()),
}


# What each query asks for: functions, log lines and their fields, which are named so in the code.
EVENTS = {
    "deploy/no-sweep.kql": ["OrderSweeper"],
    "deploy/failed-orders.kql": ["order completed", "order failed"],
    "deploy/oldest-order.kql": ["oldest overdue order", "order.oldest_age_s"],
}

# What the hook after a deployment calls, whatever its order and its doctor say.
HOOK_CALLS = """first-order.sh URL x-functions-key: function-key
cargo run --locked -- doctor --url URL --key-file /dev/stdin < master-key
"""


class Tree:
    """The files of a tree, read once; a copy may have other text in one of them."""

    def __init__(self, files):
        self.files = files
        self.bicep = {path: bicep.parse(text) for path, text in files.items() if path.endswith(".bicep")}

    def resources(self, type_name=None, existing=False):
        for path, declarations in self.bicep.items():
            for found in declarations:
                if found.kind == "resource" and (existing or not found.existing):
                    if type_name is None or found.type.split("@")[0] == type_name:
                        yield path, found

    def one(self, type_name):
        (_, found), = self.resources(type_name)
        return found

    def policies(self):
        return dict(policies.every(self.files))

    def declared(self, path, symbol):
        return next((found for found in self.bicep[path] if found.symbol == symbol), None)


def check(function):
    CHECKS.append(function)
    return function


@check
def types(tree):
    for path, found in tree.resources():
        if found.type in bicep.TYPES:
            yield from (f"{path}: {text}" for text in bicep.mistakes(bicep.TYPES[found.type], named(found), found.symbol))


def named(found):
    """The body with a name, which a child in another file may have from its parent."""
    return {"name": bicep.Expression("''")} | found.body


@check
def versions(tree):
    for path, found in tree.resources(existing=True):
        if found.type not in bicep.TYPES:
            yield f"{path}: {found.type} was seen by no compiler"


@check
def runtime(tree):
    if tree.one("Microsoft.Web/sites").body["properties"]["functionAppConfig"]["runtime"] != {"name": "custom", "version": "1.0"}:
        yield "the runtime is custom 1.0 to the letter"


@check
def package_identity(tree):
    storage = tree.one("Microsoft.Web/sites").body["properties"]["functionAppConfig"]["deployment"]["storage"]
    if storage["type"] != "blobContainer" or storage["authentication"]["type"] != "UserAssignedIdentity":
        yield "the package is read with the user-assigned identity"


@check
def site_config(tree):
    if tree.one("Microsoft.Web/sites").body["properties"]["siteConfig"] != {"minTlsVersion": "1.2"}:
        yield "Azure refuses siteConfig beyond the TLS version"


@check
def key_reference_identity(tree):
    if tree.one("Microsoft.Web/sites").body["properties"].get("keyVaultReferenceIdentity") != "identityId":
        yield "the reference to the key needs the user-assigned identity"


@check
def plan(tree):
    body = tree.one("Microsoft.Web/serverfarms").body
    if body["sku"] != {"name": "FC1", "tier": "FlexConsumption"} or body["properties"].get("reserved") is not True:
        yield "the plan is FC1 with reserved: true"
    if body["kind"] != "functionapp" or tree.one("Microsoft.Web/sites").body["kind"] != "functionapp,linux":
        yield "kind is misspelt"


@check
def always_ready(tree):
    for name in re.findall(r"\[\{ name: '([^']*)', instanceCount", tree.files["infra/app.bicep"]):
        if name != "http" and not re.fullmatch(r"function:Order\w+", name):
            yield f"{name} is no group of functions"


@check
def bounds(tree):
    wanted = {"instanceMemory": ["allowed([512, 2048, 4096])"], "maximumInstances": ["minValue(40)", "maxValue(1000)"]}
    for symbol, decorators in wanted.items():
        if not set(decorators) <= set(tree.declared("infra/main.bicep", symbol).decorators):
            yield f"{symbol} has no bounds, and the type declares none"


@check
def settings(tree):
    body = next(found.body for _, found in tree.resources("Microsoft.Web/sites/config") if found.body["name"] == "appsettings")
    names = set(body["properties"])
    if names & FORBIDDEN:
        yield f"Flex or an identity forbids {names & FORBIDDEN}"
    page = tree.files["docs/settings.md"].split("## Must have in Azure")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (`.*?) \|", page, re.M):
        alternatives = row.split(", or ")[-1]
        full = re.findall(r"`([A-Za-z_]+)`", alternatives)
        prefix = full[0].split("__")[0]
        for name in (prefix + name if name.startswith("__") else name for name in full):
            if name not in names:
                yield f"docs/settings.md calls {name} a must, and no such setting is deployed"


@check
def key_by_reference(tree):
    if "TRACKING_ID_KEY: '@Microsoft.KeyVault(SecretUri=${keyUri})'" not in tree.files["infra/app.bicep"]:
        yield "TRACKING_ID_KEY is a reference to the vault"


@check
def queue(tree):
    properties = tree.one("Microsoft.ServiceBus/namespaces/queues").body["properties"]
    wanted = {"lockDuration": "PT5M", "maxDeliveryCount": 10, "deadLetteringOnMessageExpiration": True, "requiresSession": False}
    for name, value in wanted.items():
        if properties.get(name) != value:
            yield f"{name} of the queue is {value}"


@check
def local_auth(tree):
    for type_name, name, value in [
        ("Microsoft.ServiceBus/namespaces", "disableLocalAuth", "!keys"),
        ("Microsoft.DocumentDB/databaseAccounts", "disableLocalAuth", True),
        ("Microsoft.Insights/components", "DisableLocalAuth", True),
        ("Microsoft.Storage/storageAccounts", "allowSharedKeyAccess", False),
    ]:
        if tree.one(type_name).body["properties"].get(name) != value:
            yield f"{name} of {type_name} is {value}"
    if "keys: !empty(queueKeySecret)" not in tree.files["infra/main.bicep"]:
        yield "the namespace takes keys only where the gateway has one"
    if tree.one("Microsoft.ServiceBus/namespaces/queues/authorizationRules").body != {"parent": "queue", "name": "gateway", "properties": {"rights": ["Send"]}}:
        yield "the one rule may only send, and to the queue"


@check
def tls(tree):
    for type_name, name, value in [
        ("Microsoft.ServiceBus/namespaces", "minimumTlsVersion", "1.2"),
        ("Microsoft.DocumentDB/databaseAccounts", "minimalTlsVersion", "Tls12"),
        ("Microsoft.Storage/storageAccounts", "minimumTlsVersion", "TLS1_2"),
    ]:
        if tree.one(type_name).body["properties"].get(name) != value:
            yield f"{name} of {type_name} is {value}"


@check
def scopes(tree):
    for path, found in tree.resources("Microsoft.Authorization/roleAssignments"):
        scope = tree.declared(path, str(found.body.get("scope", "")))
        if scope is None or scope.kind != "resource":
            yield f"{path}: {found.symbol} has no scope, and would be given for the whole resource group"


@check
def roles(tree):
    for path, found in tree.resources("Microsoft.Authorization/roleAssignments"):
        role = found.body["properties"]["roleDefinitionId"]
        scope = tree.declared(path, str(found.body.get("scope", "")))
        if (symbol := re.fullmatch(r"(\w+)\.id", role)) and isinstance(role, bicep.Expression):
            if tree.declared(path, symbol[1]).type.split("@")[0] != "Microsoft.Authorization/roleDefinitions":
                yield f"{path}: {found.symbol} names no role"
            continue
        call = re.fullmatch(r"subscriptionResourceId\('Microsoft.Authorization/roleDefinitions', (\w+)\)", role)
        if not isinstance(role, bicep.Expression) or not call:
            yield f"{path}: the role of {found.symbol} is no resource id"
            continue
        variable = tree.declared(path, call[1])
        identifier = variable.text.split("'")[1] if variable else ""
        if scope and scope.type.split("@")[0] not in ROLES.get(identifier, set()):
            yield f"{path}: {found.symbol} gives {identifier} at {scope.type}"


@check
def principals(tree):
    for path, found in tree.resources("Microsoft.Authorization/roleAssignments"):
        if found.body["properties"].get("principalType") != "ServicePrincipal":
            yield f"{path}: the principal of {found.symbol} is a service"


@check
def cosmos_scopes(tree):
    text = tree.files["infra/records.bicep"]
    if f"var contributor = '{CONTRIBUTOR}'" not in text:
        yield "the contributor's id is wrong"
    assigned = {found.symbol: found.body["properties"] for _, found in tree.resources("Microsoft.DocumentDB/databaseAccounts/sqlRoleAssignments")}
    if assigned["writes"]["scope"] != "'${account.id}/dbs/${database.name}/colls/${container.name}'":
        yield "the scope is the data-plane path of the container"
    if assigned["writes"]["roleDefinitionId"] != "'${account.id}/sqlRoleDefinitions/${contributor}'":
        yield "the role is one of the account"


@check
def container_definition(tree):
    resource = tree.one("Microsoft.DocumentDB/databaseAccounts/sqlDatabases/containers").body["properties"]["resource"]
    wanted = {name: f"definition.{name}" for name in json.loads(tree.files["deploy/cosmos-container.json"])}
    if {name: text for name, text in resource.items() if name != "id"} != wanted:
        yield "the container is made from deploy/cosmos-container.json, all of it"
    if "var definition = loadJsonContent('../deploy/cosmos-container.json')" not in tree.files["infra/records.bicep"]:
        yield "the definition is another file"


@check
def serverless(tree):
    for path, text in tree.files.items():
        if path.endswith(".bicep") and re.search(r"\bthroughput\b", text):
            yield f"{path}: a serverless account takes no throughput"


@check
def one_region(tree):
    properties = tree.one("Microsoft.DocumentDB/databaseAccounts").body["properties"]
    if properties.get("enableMultipleWriteLocations") is not False:
        yield "Waybill refuses an account with several writing regions"


@check
def secrets(tree):
    for path, declarations in tree.bicep.items():
        for found in declarations:
            if found.kind == "parameter" and "newGuid()" in found.text and "secure()" not in found.decorators:
                yield f"{path}: {found.symbol} would stand in the history of deployments"
            if found.kind == "output" and re.search(r"list\w*\(|ConnectionString|\bkey\.properties|Half\b", found.text):
                yield f"{path}: the output {found.symbol} tells a secret"


@check
def made_once(tree):
    for path, symbol in [("infra/secret.bicep", "key"), ("infra/alerts.bicep", "monthly")]:
        if "onlyIfNotExists()" not in tree.declared(path, symbol).decorators:
            yield f"{path}: {symbol} would be made anew by each deployment"


@check
def no_list_keys(tree):
    for path, text in tree.files.items():
        if path.endswith(".bicep") and re.search(r"\blist(Keys|Secrets|Account\w*)?\(", text):
            yield f"{path}: reads a key"


@check
def metrics(tree):
    wanted = {
        "DeadletteredMessages": ("Microsoft.ServiceBus/namespaces", "EntityName", "Minimum"),
        "TotalRequests": ("Microsoft.DocumentDB/databaseAccounts", "StatusCode", "Count"),
    }
    for path, found in tree.resources("Microsoft.Insights/metricAlerts"):
        for criterion in found.body["properties"]["criteria"]["allOf"]:
            seen = (criterion["metricNamespace"], criterion["dimensions"][0]["name"], criterion["timeAggregation"])
            if wanted.get(criterion["metricName"]) != seen:
                yield f"{path}: {criterion['metricName']} with {seen} is no metric"


@check
def sweep_window(tree):
    properties = tree.declared("infra/alerts.bicep", "noSweep").body["properties"]
    if properties["windowSize"] not in {"PT30M", "PT1H"}:
        yield "rows arrive late: a window below half an hour cries wolf"


@check
def vault(tree):
    properties = tree.one("Microsoft.KeyVault/vaults").body["properties"]
    wanted = {"sku": {"family": "A", "name": "standard"}, "enableRbacAuthorization": True, "enableSoftDelete": True, "publicNetworkAccess": "Enabled"}
    for name, value in wanted.items():
        if properties.get(name) != value:
            yield f"{name} of the vault is {value}"
    if "enablePurgeProtection" in properties:
        yield "purge protection cannot be taken back, and false is refused once it is on"


@check
def budget(tree):
    properties = tree.declared("infra/alerts.bicep", "monthly").body["properties"]
    if properties["timePeriod"] != {"startDate": "budgetStart"} or "utcNow('yyyy-MM-01')" not in tree.declared("infra/main.bicep", "budgetStart").text:
        yield "a budget starts on the first of a month"
    if any("contactEmails" not in notification for notification in properties["notifications"].values()):
        yield "contactEmails is required, even empty"


@check
def tiers(tree):
    for type_name, name in [("Microsoft.ServiceBus/namespaces", "Standard"), ("Microsoft.ApiManagement/service", "BasicV2")]:
        if tree.one(type_name).body["sku"]["name"] != name:
            yield f"the tier of {type_name} is {name}"
    if tree.one("Microsoft.ServiceBus/namespaces").body["sku"].get("tier") != "Standard":
        yield "name and tier of the namespace agree"


@check
def scale_role(tree):
    text = tree.files["infra/main.bicep"]
    if "var readyProcessor = scaleRole == 'none' ? max(alwaysReadyProcessor, 1) : alwaysReadyProcessor" not in text:
        yield "without a role that reads the queue's length one instance must never stop"
    if "alwaysReadyProcessor: readyProcessor" not in text:
        yield "the instance that never stops is not deployed"


@check
def name_lengths(tree):
    text = tree.files["infra/main.bicep"]
    longest = next(int(re.search(r"\d+", found)[0]) for found in tree.declared("infra/main.bicep", "name").decorators if "maxLength" in found)
    shortest = next(int(re.search(r"\d+", found)[0]) for found in tree.declared("infra/main.bicep", "name").decorators if "minLength" in found)
    suffix = int(re.search(r"^var suffix = substring\(.*, 0, (\d+)\)$", text, re.M)[1])
    if "var base = toLower(name)" not in text:
        yield "Cosmos DB and storage take small letters only"
    # Azure's bounds.
    for name, bounds in {"vaultName": (3, 24), "namespaceName": (6, 50), "accountName": (3, 44), "storageName": (3, 24), "frontName": (1, 50)}.items():
        written = re.search(rf"{name}(?::| = .* \?) '([^']*\$\{{base\}}[^']*|\$\{{replace\(base, [^']*'-', ''\)\}}\$\{{suffix\}})'", text)
        if not written:
            yield f"{name} is not made of base and suffix"
            continue
        for length in (shortest, longest):
            made = re.sub(r"\$\{(base|replace\([^)]*\))\}", "n" * length, written[1]).replace("${suffix}", "s" * suffix)
            if not bounds[0] <= len(made) <= bounds[1]:
                yield f"{name} has {len(made)} characters, and Azure takes {bounds}"
    if len(tree.one("Microsoft.Insights/actionGroups").body["properties"]["groupShortName"]) > 12:
        yield "the short name of an action group has at most 12 characters"


@check
def windows(tree):
    for kind in ("metricAlerts", "scheduledQueryRules"):
        for path, found in tree.resources(f"Microsoft.Insights/{kind}"):
            for name in ("windowSize", "evaluationFrequency"):
                if found.body["properties"][name] not in {"PT1M", "PT5M", "PT10M", "PT15M", "PT30M", "PT1H"}:
                    yield f"{path}: {name} of {found.symbol} is none that Azure takes"


@check
def queries(tree):
    said = "\n".join(text for path, text in tree.files.items() if path.startswith("src/functions"))
    for path, names in EVENTS.items():
        query = tree.files[path]
        if sorted(set(re.findall(r'"([A-Za-z][\w. ]+)"', query))) != sorted(names):
            yield f"{path} asks for other names than {names}"
        for name in names:
            if name == "OrderSweeper":
                if f"{name}/function.json" not in tree.files:
                    yield f"{path}: there is no function {name}"
            elif not re.search(rf'"{re.escape(name)}"|\b{re.escape(name)} =', said):
                yield f"{path}: no log line has {name}"
        if f"loadTextContent('../{path}')" not in tree.files["infra/alerts.bicep"]:
            yield f"{path}: no alert asks"


@check
def policy_resources(tree):
    for kind in ("apis/policies", "apis/operations/policies"):
        for path, found in tree.resources(f"Microsoft.ApiManagement/service/{kind}"):
            if found.body["name"] != "policy" or found.body["properties"]["format"] != "xml":
                yield f"{path}: {found.symbol} is named policy, and is xml"


@check
def one_breaker_rule(tree):
    rules = tree.one("Microsoft.ApiManagement/service/backends").body["properties"]["circuitBreaker"]["rules"]
    if len(rules) != 1:
        yield "the service takes one rule"
    if any(status["min"] <= 503 <= status["max"] for rule in rules for status in rule["failureCondition"]["statusCodeRanges"]):
        yield "503 is an answer of Waybill and no failure of the app"


@check
def policy_elements(tree):
    for path, text in tree.policies().items():
        try:
            root = etree.fromstring(text.encode())
        except etree.XMLSyntaxError as error:
            yield f"{path}: {error}"
            continue
        if [section.tag for section in root.iterchildren(tag=etree.Element)] != list(SECTIONS):
            yield f"{path}: the sections are {list(SECTIONS)}"
            continue
        for section in root.iterchildren(tag=etree.Element):
            policies_here = [element for element in section.iterdescendants(tag=etree.Element) if element.getparent().tag in {section.tag, "when", "otherwise"}]
            for policy in policies_here:
                if policy.tag not in SECTIONS[section.tag] | {"when", "otherwise"}:
                    yield f"{path}: {policy.tag} may not stand in {section.tag}"
            for element in section.iterdescendants(tag=etree.Element):
                required, optional, children = ELEMENTS.get(element.tag, (set(), set(), None))
                if children is None:
                    yield f"{path}: {element.tag} is unknown"
                    continue
                seen = set(element.keys())
                if not required <= seen <= required | optional:
                    yield f"{path}: attributes of {element.tag} are {sorted(seen)}"
                wrong = [child.tag for child in element.iterchildren(tag=etree.Element) if child.tag not in children]
                if wrong:
                    yield f"{path}: {element.tag} has {wrong}"
                if children and (element.text or "").strip():
                    yield f"{path}: {element.tag} has text of its own"


@check
def policy_base(tree):
    for path, text in tree.policies().items():
        for section in etree.fromstring(text.encode()).iterchildren(tag=etree.Element):
            count = len(section.findall("base"))
            if count != (0 if section.tag == "backend" else 1):
                yield f"{path}: {section.tag} has base {count} times"


@check
def policy_header(tree):
    for path, text in tree.policies().items():
        if "straight-to-queue" in path:
            continue
        deleted = text.find('<set-header name="X-Subscription-Id" exists-action="delete"')
        written = text.find('<set-header name="X-Subscription-Id" exists-action="override"')
        if not 0 <= deleted < written:
            yield f"{path}: a client's own X-Subscription-Id would be believed"
    if "var subscriptionHeader = fronted ? 'X-Subscription-Id' : ''" not in tree.files["infra/main.bicep"]:
        yield "app and gateway name different headers"


@check
def policy_key(tree):
    text = tree.files["infra/apim/orders.xml"]
    for form in ['<set-header name="Ocp-Apim-Subscription-Key"', '<set-query-parameter name="subscription-key"']:
        if f'{form} exists-action="delete" />' not in text:
            yield f"{form} … the subscription key goes on to the app"


@check
def policy_values(tree):
    values = {found.body["name"] for _, found in tree.resources("Microsoft.ApiManagement/service/namedValues")}
    for path, text in tree.policies().items():
        if missing := set(re.findall(r"\{\{([^}]+)\}\}", text)) - values:
            yield f"{path}: {missing} is no named value"
        for backend in re.findall(r'backend-id="([^"]*)"', text):
            if backend != tree.one("Microsoft.ApiManagement/service/backends").body["name"]:
                yield f"{path}: {backend} is no backend"


@check
def policy_limits(tree):
    for path, text in tree.policies().items():
        if re.findall(r'<rate-limit-by-key calls="(\d+)" renewal-period="(\d+)"', text) != [("100", "60")]:
            yield f"{path}: the limit is 100 in 60 s, once"


@check
def status_is_free(tree):
    root = etree.fromstring(tree.files["infra/apim/orders.xml"].encode())
    around = root.find(".//rate-limit-by-key").getparent()
    if around.get("condition") != '@(!(context.Request.Method == "GET" && context.Request.OriginalUrl.Path.Contains("/orders/")))':
        yield "reading one order counts in the limit"


@check
def policy_secrets(tree):
    for path, text in tree.policies().items():
        if re.search(r"SharedAccessKey|[?&]sig=|[A-Za-z0-9+/]{40,}=", text):
            yield f"{path}: has a secret"
        if re.search(r"System\.Text\.Json|JsonElement|HttpClient|HttpRequestMessage|\bawait\b|As&lt;JObject&gt;", text):
            yield f"{path}: uses what API Management does not know, or what loses digits"


@check
def policy_on_error(tree):
    front = tree.files["infra/front.bicep"]
    if "var onError = loadTextContent('apim/on-error.xml')" not in front:
        yield "on-error is another file"
    for policy in policies.POLICIES:
        if tree.files[f"infra/apim/{policy}.xml"].count("<!-- on-error -->") != 1:
            yield f"{policy}: on-error has one place"
        if not re.search(rf"value: (replace\()+loadTextContent\('apim/{policy}\.xml'\).*, '<!-- on-error -->', onError\) \}}", front):
            yield f"{policy}: nothing puts on-error in"


@check
def policy_token(tree):
    front = tree.files["infra/front.bicep"]
    for policy in policies.POLICIES:
        text = tree.files[f"infra/apim/{policy}.xml"]
        if not 0 <= text.find("<!-- token -->") < text.find("<rate-limit-by-key"):
            yield f"{policy}: the token is checked first"
        if f"replace(loadTextContent('apim/{policy}.xml'), '<!-- token -->', token)" not in front:
            yield f"{policy}: nothing puts the token in"
    if "var token = tokens[empty(authIssuer) ? 'none' : kind]" not in front:
        yield "with an issuer a token is needed"


@check
def policy_sender(tree):
    front = tree.files["infra/front.bicep"]
    if "'<!-- sender -->', sender)" not in front or "var sender = senders[empty(queueKeySecret) ? 'identity' : 'key']" not in front:
        yield "a request to the queue has no Authorization"
    if tree.files["infra/apim/straight-to-queue.xml"].count("<!-- sender -->") != 1:
        yield "the sender has one place"


@check
def policy_tenant(tree):
    if "var tenantId = entra ? split(authIssuer, '/')[3] : 'none'" not in tree.files["infra/front.bicep"]:
        yield "the tenant is the issuer's, and the deployer may be in another"


@check
def policy_outcome(tree):
    for path, text in tree.policies().items():
        root = etree.fromstring(text.encode())
        for body in root.find("on-error").iter("set-body"):
            whens = [element.get("condition") for element in body.iterancestors("when")]
            if ("outcome" in body.text) != (whens == ['@(context.Variables.ContainsKey("forwarded"))']):
                yield f"{path}: an outcome is told only after the last step before the request is sent on"
        inbound = list(root.find("inbound").iterchildren(tag=etree.Element))
        place = next((at for at, element in enumerate(inbound) if element.get("name") == "forwarded"), None)
        after = [element.tag for element in inbound[place + 1:]] if place is not None else None
        if after not in ([], ["send-request", "choose"]):
            yield f"{path}: the variable forwarded is set by the last step before the request is sent on"


@check
def policy_backend(tree):
    for path, text in tree.policies().items():
        if len(list(etree.fromstring(text.encode()).find("backend").iterchildren(tag=etree.Element))) > 1:
            yield f"{path}: the section backend takes one policy"


@check
def sent_is_201(tree):
    if "?.StatusCode == 201" not in tree.files["infra/apim/straight-to-queue.xml"]:
        yield "a 202 needs the 201 of the queue"


def ran(script, order, doctor):
    """What a hook calls, and its exit code, where the order and the doctor end with these codes."""
    with tempfile.TemporaryDirectory() as folder:
        stubs = {
            "bin/az": 'case "$*" in *" functionKeys.default "*) echo function-key ;; *" masterKey "*) echo master-key ;; esac',
            "bin/cargo": f'echo "cargo $* < $(cat)" >> calls; exit {doctor}',
            "deploy/first-order.sh": f'echo "first-order.sh $*" >> calls; exit {order}',
        }
        for path, text in stubs.items():
            stub = Path(folder, path)
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(f"#!/bin/sh\n{text}\n")
            stub.chmod(0o755)
        environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "AZURE_RESOURCE_GROUP": "group", "WAYBILL_APP": "app", "WAYBILL_DIRECT_URL": "URL"}
        code = subprocess.run(["sh", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
        calls = Path(folder, "calls")
        return calls.read_text() if calls.exists() else "", code


@check
def adoption(tree):
    """What the handler needs to adopt an order: a tracking id of version 8, the owner from the token, and the setting."""
    straight = tree.files["infra/apim/straight-to-queue.xml"]
    if '.Remove(14, 1).Insert(14, "8")' not in straight:
        yield "the handler takes no tracking id but version 8"
    if '["token"]).Issuer + " " + ((Jwt)context.Variables["token"]).Subject' not in straight or 'JProperty("owner"' not in straight:
        yield "the message does not say whose order it is"
    for token in ("entra", "issuer"):
        if 'output-token-variable-name="token"' not in tree.files[f"infra/apim/token-{token}.xml"]:
            yield f"token-{token}.xml does not keep the token"
    if '<claim name="iss">\n      <value>{{waybill-issuer}}</value>' not in tree.files["infra/apim/token-entra.xml"]:
        yield "a token of version 1 would pass, and its owner is not known to the handler"
    if "directToQueue ? (empty(authIssuer) ? callerWithoutToken : 'token') : ''" not in tree.files["infra/main.bicep"]:
        yield "the handler would not adopt what the gateway sends"
    if "ADOPT_GATEWAY_ORDERS: gatewayOwner" not in tree.files["infra/app.bicep"]:
        yield "ADOPT_GATEWAY_ORDERS is not set"


@check
def azd(tree):
    services = YAML(typ="safe").load(tree.files["azure.yaml"])["services"]
    tag = re.search(r"'azd-service-name': '([^']+)'", tree.files["infra/app.bicep"])
    if not tag or list(services) != [tag[1]]:
        yield "azd finds the app by its tag, which must be the name of the one service"
    for name, service in services.items():
        if (service.get("host"), service.get("language"), service.get("project")) != ("function", "custom", "."):
            yield f"{name} is not a custom handler of this folder"
        if service.get("dist") != "target/package/waybill.zip":
            yield f"{name}: dist is not what `waybill package` writes"
        if unknown := set(service) - {"project", "host", "language", "dist", "hooks"}:
            yield f"{name}: {sorted(unknown)} are not for a function"
        for event, hook in service.get("hooks", {}).items():
            if event not in {"prerestore", "postrestore", "prebuild", "postbuild", "prepackage", "postpackage", "predeploy", "postdeploy"}:
                yield f"{name}: there is no hook {event}"
            if hook.get("shell") != "sh":
                yield f"{name}: an inline hook needs a shell"
        used = set(re.findall(r"\$(WAYBILL\w*)", service.get("hooks", {}).get("postdeploy", {}).get("run", "")))
        if not used or not used <= {found.symbol for found in tree.bicep["infra/main.bicep"] if found.kind == "output"}:
            yield f"{name}: {sorted(used)} are not all outputs of the template, or no order is sent"
        for order, doctor, code in [(0, 0, 0), (3, 0, 3), (0, 4, 4)]:
            found = ran(service.get("hooks", {}).get("postdeploy", {}).get("run", ""), order, doctor)
            if found != (HOOK_CALLS, code):
                yield f"{name}: after a deployment the order ends with {order} and the doctor with {doctor}, and the hook does {found}"
        if "waybill package" not in "waybill " + service.get("hooks", {}).get("prepackage", {}).get("run", "").partition("-- ")[2]:
            yield f"{name}: nothing makes the package"


@check
def workflow(tree):
    steps = YAML(typ="safe").load(tree.files[".github/workflows/deploy.yml"])["jobs"]["deploy"]["steps"]
    lines = [step.get("run", "") for step in steps]

    def place(text):
        return next((place for place, line in enumerate(lines) if text in line), None)

    order = [place(text) for text in ("cargo test", "package --check", "grep -q Warning", "security.py", "deployment group create", "config-zip", "first-order.sh", "doctor --url")]
    if None in order or order != sorted(order):
        yield "the workflow must test, package, compile, deploy, publish, send an order and ask the doctor, in this order"
    if "add-mask" not in "".join(line for line in lines if "first-order.sh" in line):
        yield "the key would stand in the log"
    if [step.get("env", {}).get("ORDER") for step in steps if "first-order.sh" in step.get("run", "")] != ["${{ vars.ORDER }}"]:
        yield "an app with a schema of its own needs an order of its own"
    if "secrets." in tree.files[".github/workflows/deploy.yml"]:
        yield "the login needs no secret"


# One mistake that no compiler sees, the edit that makes it, and the check that must then fail.
MISTAKES = [
    ("a misspelt property", "infra/queue.bicep", "deadLetteringOnMessageExpiration", "enableDeadLetteringOnMessageExpiration", "types"),
    ("a number as text", "infra/queue.bicep", "maxDeliveryCount: 10", "maxDeliveryCount: '10'", "types"),
    ("a required property left out", "infra/alerts.bicep", "    severity: 1\n", "", "types"),
    ("a version without types", "infra/app.bicep", "sites@2025-03-01", "sites@2026-07-15", "versions"),
    ("runtime 2.0", "infra/app.bicep", "version: '1.0'", "version: '2.0'", "runtime"),
    ("runtime rust", "infra/app.bicep", "name: 'custom'", "name: 'rust'", "runtime"),
    ("no version", "infra/app.bicep", ", version: '1.0'", "", "runtime"),
    ("memory 1024", "infra/main.bicep", "@allowed([512, 2048, 4096])", "@allowed([512, 1024, 2048])", "bounds"),
    ("5000 instances", "infra/main.bicep", "@maxValue(1000)", "@maxValue(5000)", "bounds"),
    ("no function:", "infra/app.bicep", "function:OrderProcessor", "OrderProcessor", "always_ready"),
    ("identity type", "infra/app.bicep", "type: 'UserAssignedIdentity'", "type: 'UserAssigned'", "package_identity"),
    ("linuxFxVersion", "infra/app.bicep", "{ minTlsVersion: '1.2' }", "{ minTlsVersion: '1.2', linuxFxVersion: '' }", "site_config"),
    ("identity of references", "infra/app.bicep", "    keyVaultReferenceIdentity: identityId\n", "", "key_reference_identity"),
    ("forbidden setting", "infra/app.bicep", "OrdersQueue: queueName", "OrdersQueue: queueName\n    FUNCTIONS_WORKER_RUNTIME: 'custom'", "settings"),
    ("setting left out", "infra/app.bicep", "    SweepSchedule: '0 * * * * *'\n", "", "settings"),
    ("key as text", "infra/app.bicep", "'@Microsoft.KeyVault(SecretUri=${keyUri})'", "'key'", "key_by_reference"),
    ("FC2", "infra/app.bicep", "name: 'FC1'", "name: 'FC2'", "plan"),
    ("reserved", "infra/app.bicep", "    reserved: true\n", "", "plan"),
    ("kind", "infra/app.bicep", "kind: 'functionapp,linux'", "kind: 'functionapp,linus'", "plan"),
    ("lock PT10M", "infra/queue.bicep", "'PT5M'", "'PT10M'", "queue"),
    ("lock 5m", "infra/queue.bicep", "'PT5M'", "'5m'", "queue"),
    ("keys of the namespace", "infra/queue.bicep", "disableLocalAuth: !keys", "disableLocalAuth: false", "local_auth"),
    ("keys without need", "infra/main.bicep", "keys: !empty(queueKeySecret)", "keys: true", "local_auth"),
    ("a rule that manages", "infra/queue.bicep", "rights: ['Send']", "rights: ['Manage', 'Send', 'Listen']", "local_auth"),
    ("TLS12", "infra/app.bicep", "'TLS1_2'", "'TLS12'", "tls"),
    ("wrong role id", "infra/queue.bicep", "69a216fc", "69a216fd", "roles"),
    ("role at a larger scope", "infra/queue.bicep", "scope: queue\n  name: guid(queue.id, principalId, sender)",
     "scope: namespace\n  name: guid(queue.id, principalId, sender)", "roles"),
    ("bare GUID", "infra/telemetry.bicep", "subscriptionResourceId('Microsoft.Authorization/roleDefinitions', metricsPublisher)",
     "metricsPublisher", "roles"),
    ("no scope", "infra/secret.bicep", "  scope: key\n", "", "scopes"),
    ("principalType", "infra/telemetry.bicep", "'ServicePrincipal'", "'User'", "principals"),
    ("container.id as scope", "infra/records.bicep", "'${account.id}/dbs/${database.name}/colls/${container.name}'", "container.id", "cosmos_scopes"),
    ("throughput", "infra/records.bicep", "    resource: {\n", "    options: { throughput: 400 }\n    resource: {\n", "serverless"),
    ("a member of the definition", "infra/records.bicep", "      defaultTtl: definition.defaultTtl\n", "", "container_definition"),
    ("a copied definition", "infra/records.bicep", "definition.defaultTtl", "-1", "container_definition"),
    ("several regions", "infra/records.bicep", "enableMultipleWriteLocations: false", "enableMultipleWriteLocations: true", "one_region"),
    ("@secure", "infra/secret.bicep", "@secure()\nparam firstHalf", "param firstHalf", "secrets"),
    ("secret in an output", "infra/app.bicep", "output name string = site.name", "output name string = component.properties.ConnectionString", "secrets"),
    ("@onlyIfNotExists", "infra/secret.bicep", "@onlyIfNotExists()\n", "", "made_once"),
    ("listKeys", "infra/app.bicep", "storage.name\n", "storage.listKeys().keys[0].value\n", "no_list_keys"),
    ("metric", "infra/alerts.bicep", "'DeadletteredMessages'", "'DeadLetteredMessages'", "metrics"),
    ("aggregation", "infra/alerts.bicep", "'Minimum'", "'Total'", "metrics"),
    ("windowSize", "infra/alerts.bicep", "windowSize: 'PT5M'", "windowSize: 'PT7M'", "windows"),
    ("log line", "deploy/failed-orders.kql", "order failed", "order lost", "queries"),
    ("another log line", "src/functions/order_sweeper.rs", "oldest overdue order", "oldest order", "queries"),
    ("another field", "src/functions/order_sweeper.rs", "order.oldest_age_s", "order.age", "queries"),
    ("another field in the query", "deploy/oldest-order.kql", "order.oldest_age_s", "order.age", "queries"),
    ("a query that no alert asks", "infra/alerts.bicep", "../deploy/oldest-order.kql", "../deploy/no-sweep.kql", "queries"),
    ("sweeps for ten minutes", "infra/alerts.bicep", "windowSize: 'PT30M'", "windowSize: 'PT10M'", "sweep_window"),
    ("access policies", "infra/secret.bicep", "enableRbacAuthorization: true", "enableRbacAuthorization: false", "vault"),
    ("purge protection", "infra/secret.bicep", "enableSoftDelete: true", "enableSoftDelete: true\n    enablePurgeProtection: false", "vault"),
    ("the day of the budget", "infra/main.bicep", "yyyy-MM-01", "yyyy-MM-dd", "budget"),
    ("no addresses", "infra/alerts.bicep", "contactEmails:", "contactGroups:", "budget"),
    ("Basic", "infra/queue.bicep", "name: 'Standard', tier", "name: 'Basic', tier", "tiers"),
    ("Consumption", "infra/gateway.bicep", "'BasicV2'", "'Consumption'", "tiers"),
    ("no role and no instance", "infra/main.bicep", "max(alwaysReadyProcessor, 1)", "alwaysReadyProcessor", "scale_role"),
    ("long names", "infra/main.bicep", "@maxLength(11)", "@maxLength(20)", "name_lengths"),
    ("capital letters", "infra/main.bicep", "toLower(name)", "name", "name_lengths"),
    ("long short name", "infra/alerts.bicep", "groupShortName: 'waybill'", "groupShortName: 'waybill-operators'", "name_lengths"),
    ("straight without a token", "infra/apim/straight-to-queue.xml", "    <!-- token -->\n", "", "policy_token"),
    ("token nowhere put in", "infra/front.bicep", "replace(loadTextContent('apim/orders.xml'), '<!-- token -->', token)", "loadTextContent('apim/orders.xml')", "policy_token"),
    ("no sender", "infra/apim/straight-to-queue.xml", "      <!-- sender -->\n", "", "policy_sender"),
    ("the deployer's tenant", "infra/front.bicep", "split(authIssuer, '/')[3]", "subscription().tenantId", "policy_tenant"),
    ("unknown for a refusal", "infra/apim/on-error.xml", 'ContainsKey("forwarded")', 'ContainsKey("text")', "policy_outcome"),
    ("marked too early", "infra/apim/orders.xml", '    <set-backend-service backend-id="waybill" />\n    <!-- The last step before the request is sent on. -->\n    <set-variable name="forwarded" value="@(true)" />\n',
     '    <set-variable name="forwarded" value="@(true)" />\n    <set-backend-service backend-id="waybill" />\n', "policy_outcome"),
    ("two policies in backend", "infra/apim/orders.xml", "    <forward-request", '    <set-variable name="a" value="b" />\n    <forward-request', "policy_backend"),
    ("status reads count", "infra/apim/orders.xml", '!(context.Request.Method == "GET" &amp;&amp; context.Request.OriginalUrl.Path.Contains("/orders/"))', "true", "status_is_free"),
    ("reads at the order's own URL count", "infra/apim/orders.xml", 'Contains("/orders/")', 'EndsWith("/status")', "status_is_free"),
    ("policy format", "infra/front.bicep", "format: 'xml', value: replace", "format: 'rawxml', value: replace", "policy_resources"),
    ("policy name", "infra/front.bicep", "name: 'policy'", "name: 'polcy'", "policy_resources"),
    ("503 trips the breaker", "infra/front.bicep", "max: 502", "max: 503", "one_breaker_rule"),
    ("policy not well-formed", "infra/apim/orders.xml", "</policies>", "", "policy_elements"),
    ("unknown attribute", "infra/apim/straight-to-queue.xml", 'ignore-error="true"', 'fail-on-error-status-code="true"', "policy_elements"),
    ("policy in the wrong section", "infra/apim/orders.xml", "  <backend>\n", '  <backend>\n    <rewrite-uri template="/" />\n', "policy_elements"),
    ("text in set-header", "infra/apim/on-error.xml", "<value>application/problem+json</value>", "application/problem+json", "policy_elements"),
    ("no base", "infra/apim/orders.xml", "  <inbound>\n    <base />", "  <inbound>", "policy_base"),
    ("client's header", "infra/apim/orders.xml", '    <set-header name="X-Subscription-Id" exists-action="delete" />\n', "", "policy_header"),
    ("the key goes on in a header", "infra/apim/orders.xml", '    <set-header name="Ocp-Apim-Subscription-Key" exists-action="delete" />\n', "", "policy_key"),
    ("the key goes on in the query", "infra/apim/orders.xml", '    <set-query-parameter name="subscription-key" exists-action="delete" />\n', "", "policy_key"),
    ("unknown named value", "infra/apim/token-entra.xml", "{{waybill-tenant}}", "{{tenant}}", "policy_values"),
    ("limit", "infra/apim/orders.xml", 'calls="100"', 'calls="10"', "policy_limits"),
    ("body through a parser", "infra/apim/straight-to-queue.xml", "As&lt;string&gt;", "As&lt;JObject&gt;", "policy_secrets"),
    ("on-error nowhere put in", "infra/front.bicep", ", token), '<!-- on-error -->', onError)", ", token), '<!-- on-error -->', '')", "policy_on_error"),
    ("on-error of one policy only", "infra/front.bicep", ", sender), '<!-- on-error -->', onError)", ", sender), '<!-- on-error -->', '')", "policy_on_error"),
    ("no place for on-error", "infra/apim/straight-to-queue.xml", "  <!-- on-error -->\n", "", "policy_on_error"),
    ("202 without 201", "infra/apim/straight-to-queue.xml", "?.StatusCode == 201", "?.StatusCode &lt; 500", "sent_is_201"),
    ("tracking id of version 4", "infra/apim/straight-to-queue.xml", '.Remove(14, 1).Insert(14, "8")', "", "adoption"),
    ("no owner", "infra/apim/straight-to-queue.xml", 'JProperty("owner"', 'JProperty("from"', "adoption"),
    ("token not kept", "infra/apim/token-issuer.xml", ' output-token-variable-name="token"', "", "adoption"),
    ("any issuer of Entra", "infra/apim/token-entra.xml", '<claim name="iss">', '<claim name="ver">', "adoption"),
    ("anonymous with tokens", "infra/main.bicep", "callerWithoutToken : 'token'", "callerWithoutToken : callerWithoutToken", "adoption"),
    ("nothing adopted", "infra/app.bicep", "    ADOPT_GATEWAY_ORDERS: gatewayOwner\n", "", "adoption"),
    ("azd's language", "azure.yaml", "language: custom", "language: rust", "azd"),
    ("another dist", "azure.yaml", "dist: target/", "dist: ", "azd"),
    ("another tag", "infra/app.bicep", "'azd-service-name': 'waybill'", "'azd-service-name': 'api'", "azd"),
    ("a hook without a shell", "azure.yaml", "        shell: sh\n", "", "azd"),
    ("a hook that azd does not know", "azure.yaml", "prepackage:", "beforepackage:", "azd"),
    ("env of a function", "azure.yaml", "    project: .\n", "    project: .\n    env: {}\n", "azd"),
    ("published untested", ".github/workflows/deploy.yml", "cargo test --locked", "cargo build --locked", "workflow"),
    ("a warning of the compiler", ".github/workflows/deploy.yml", "grep -q Warning", "grep -q Never", "workflow"),
    ("a deployment that nothing tried", ".github/workflows/deploy.yml", "          deploy/first-order.sh", "          echo deploy", "workflow"),
    ("no doctor", ".github/workflows/deploy.yml", "-- doctor --url", "-- settings --url", "workflow"),
    ("a key in the log", ".github/workflows/deploy.yml", "::add-mask::", "", "workflow"),
    ("the built-in order alone", ".github/workflows/deploy.yml", "          ORDER: ${{ vars.ORDER }}\n", "", "workflow"),
    ("a hook that never fails", "azure.yaml", "exit $ended", "exit 0", "azd"),
    ("a hook without a doctor", "azure.yaml", 'cargo run --locked -- doctor --url "$WAYBILL_DIRECT_URL" --key-file /dev/stdin || ended=$?', "cat", "azd"),
    ("a hook without an order", "azure.yaml", "deploy/first-order.sh", "echo", "azd"),
    ("no doctor after a failed order", "azure.yaml", '$key" || ended=$?', '$key" || exit $?', "azd"),
    ("an order past the app", "azure.yaml", '"$WAYBILL_DIRECT_URL"', '"$WAYBILL"', "azd"),
    ("a secret", ".github/workflows/deploy.yml", "vars.AZURE_CLIENT_ID", "secrets.AZURE_CLIENT_ID", "workflow"),
]


def files():
    patterns = ["infra/**/*.bicep", "infra/apim/*.xml", "deploy/*", "docs/settings.md", "src/functions.rs", "src/functions/*.rs", "*/function.json", "azure.yaml", ".github/workflows/*.yml"]
    return {str(path.relative_to(ROOT)): path.read_text() for pattern in patterns for path in ROOT.glob(pattern)}


def main():
    original = files()
    failures = [f"{run.__name__}: {text}" for run in CHECKS for text in run(Tree(original))]
    by_name = {run.__name__: run for run in CHECKS}
    for mistake, path, old, new, name in MISTAKES:
        if old not in original[path]:
            failures.append(f"the mistake {mistake!r} has no place in {path}")
            continue
        copy = Tree(original | {path: original[path].replace(old, new, 1)})
        if not list(by_name[name](copy)):
            failures.append(f"{name} does not see the mistake {mistake!r}")
    if unproven := set(by_name) - {name for *_, name in MISTAKES}:
        failures.append(f"no mistake makes these checks fail: {sorted(unproven)}")
    print("\n".join(failures) or f"{len(CHECKS)} checks passed, and each failed on a copy with its mistake ({len(MISTAKES)} copies)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
