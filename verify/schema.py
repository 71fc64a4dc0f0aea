"""The JSON schema of report.json: made from the report's dataclasses, so that it cannot differ from them.

``python -m deploy_kit.verify.schema`` writes `report.schema.json` anew; a test holds the file to this module.
"""

import json
from pathlib import Path
from typing import Any

from deploy_kit.bundle.schema import add_definition
from deploy_kit.verify.findings import KINDS
from deploy_kit.verify.judgement import Verdict
from deploy_kit.verify.report import SCHEMA_VERSION, VerifyReport

SCHEMA_PATH = Path(__file__).with_name("report.schema.json")
"""The schema, as it is shipped."""


def build_schema() -> dict[str, Any]:
    """Return the schema, each field with the description that its dataclass gives it."""
    definitions: dict[str, Any] = {}
    for cls in (VerifyReport, Verdict):
        add_definition(cls, definitions)
    for kind, cls in KINDS.items():
        add_definition(cls, definitions)
        check = definitions[cls.__name__]
        check["properties"] = {"kind": {"const": kind}, **check["properties"]}
        check["required"] = ["kind", *check["required"]]
    root = definitions.pop(VerifyReport.__name__)
    verdicts = {"type": "array", "items": {"$ref": f"#/$defs/{Verdict.__name__}"}}
    root["properties"] = {
        "schema_version": {"const": SCHEMA_VERSION},
        "passed": {
            "description": "whether a check ran, none failed, and only what was switched off was not run",
            "type": "boolean",
        },
        "complete": {"description": "whether every check was run", "type": "boolean"},
        "verdicts": {"description": "judgements of the figures, in the order of `checks`", **verdicts},
        **root["properties"],
    }
    root["required"] = list(root["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "deploy-kit verification report",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the schema as its file holds it."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
