"""checkov on infra/: what it finds is what is listed here with a reason, and it read every file."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Resources that checkov sees. A file that it cannot parse is left out in silence, so that a change of the template changes this number.
RESOURCES = 86
# Findings that stay, by check and symbol.
ACCEPTED = {
    "clients come from the internet, and there is no private network": [
        "CKV_AZURE_35 storage", "CKV_AZURE_101 account", "CKV_AZURE_107 service", "CKV_AZURE_109 vault", "CKV_AZURE_174 service", "CKV_AZURE_189 vault",
        "CKV_AZURE_222 site", "CKV_AZURE_222 settings",
    ],
    "Flex Consumption refuses the property in siteConfig": ["CKV_AZURE_18 site", "CKV_AZURE_67 site", "CKV_AZURE_78 site", "CKV_AZURE_212 site", "CKV_AZURE_213 site"],
    "the app settings are read as if they were the configuration of the site": [
        "CKV_AZURE_13 settings", "CKV_AZURE_63 settings", "CKV_AZURE_65 settings", "CKV_AZURE_66 settings", "CKV_AZURE_80 settings", "CKV_AZURE_88 settings",
    ],
    "the parameter zoneRedundant decides": ["CKV_AZURE_206 storage", "CKV_AZURE_225 plan"],
    "the name is made of parameters, and tests/infra/check.py computes its length": ["CKV_AZURE_43 storage"],
    "callers have keys or tokens, and no certificates": ["CKV_AZURE_17 site"],
    "purge protection cannot be taken back, and would keep the name after `az group delete`": ["CKV_AZURE_42 vault", "CKV_AZURE_110 vault"],
    "another key would forget which requests were sent before": ["CKV_AZURE_41 key"],
    "the default is random, and stands in no history": ["CKV_AZURE_131 firstHalf", "CKV_AZURE_131 secondHalf"],
}


def main():
    command = [str(Path(sys.executable).with_name("checkov")), "--directory", str(ROOT / "infra"), "--framework", "bicep", "--skip-download", "--quiet", "--compact", "--output", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(ran.stdout)
    summary = report["summary"]
    found = {f"{check['check_id']} {check['resource'].rsplit('.', 1)[-1]}" for check in report["results"]["failed_checks"]}
    accepted = {name for names in ACCEPTED.values() for name in names}
    failures = [f"new: {name}" for name in sorted(found - accepted)] + [f"no longer found: {name}" for name in sorted(accepted - found)]
    if (summary["parsing_errors"], summary["resource_count"]) != (0, RESOURCES):
        failures.append(f"read {summary['resource_count']} resources with {summary['parsing_errors']} errors, not {RESOURCES} with none")
    print("\n".join(failures) or f"checkov {summary['checkov_version']}: {summary['passed']} checks passed, {len(found)} findings are listed with a reason, {RESOURCES} resources")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
