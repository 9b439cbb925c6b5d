"""Whether documents, one a line on stdin, fit the schemas that they name: published.py FOLDER.

Prints `name NAME` for each schema that was named, and `wrong WHAT` for all that does not fit."""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator, FormatChecker

schemas = [json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.schema.json")]
by_id = {schema["$id"]: schema for schema in schemas}

try:
    from referencing import Registry

    registry = Registry().with_contents(by_id.items())

    def validator(schema):
        return Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())

except ImportError:  # before version 4.18 of jsonschema, as in Debian 12
    from jsonschema import RefResolver

    def join(base, reference):
        """Local references stay in their file: Python does not know how URNs are joined."""
        return base.partition("#")[0] + reference if reference.startswith("#") else reference

    def validator(schema):
        resolver = RefResolver(schema["$id"], schema, store=by_id, urljoin_cache=join)
        return Draft202012Validator(schema, resolver=resolver, format_checker=FormatChecker())


for schema in schemas:
    Draft202012Validator.check_schema(schema)
by_name = {
    schema["properties"]["schema"]["const"]: validator(schema)
    for schema in schemas
    if schema["$id"].startswith("urn:wattle:schema:cli-")
}
for line in sys.stdin:
    try:
        document = json.loads(line)
        name = document["schema"]
        complaints = [f"{error.json_path}: {error.message}" for error in by_name[name].iter_errors(document)]
    except (KeyError, TypeError, ValueError) as error:
        complaints = [repr(error)]
    else:
        print("name", name)
    for complaint in complaints:
        print("wrong", complaint, "in", line[:300].strip())
