"""The bill of materials of `waybill package` against the schema of CycloneDX 1.6, which the package cyclonedx-python-lib brings."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main():
    path = Path(sys.argv[1])
    text = path.read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    if error := validator.validate_str(text):
        print(f"{path}: {error}")
        return 1
    # A document that the validator would let pass unread proves nothing.
    if not validator.validate_str(text.replace('"type": "library"', '"type": "libary"')):
        print("the schema does not see a wrong type")
        return 1
    print(f"{path} is CycloneDX 1.6")
    return 0


if __name__ == "__main__":
    sys.exit(main())
