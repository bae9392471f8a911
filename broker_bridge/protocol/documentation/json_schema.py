"""The JSON Schema of every message's line of JSON."""

from __future__ import annotations

from typing import Any

from edge_mqtt.broker_bridge.protocol.documentation.field_meanings import meaning, parts, prose
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND, PROTOCOL_VERSION, BinaryMessage


def json_schema() -> dict[str, Any]:
    """Return the schema; fields that it does not name are allowed, and ignored."""
    definitions = definitions_by_class()
    for name, model in parts().items():
        _describe(definitions[name], model)
    for model in MESSAGE_OF_KIND.values():
        definition = definitions[model.__name__]
        definition["required"] = ["kind", *definition.get("required", ())]
        _describe(definition, model)
        if issubclass(model, BinaryMessage):
            definition["description"] += "\n\nA line feed and the message's body follow the line of JSON."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Messages of airflow-edge-mqtt, protocol version {PROTOCOL_VERSION}",
        "oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in MESSAGE_OF_KIND.values()],
        "$defs": definitions,
    }


def definitions_by_class() -> dict[str, Any]:
    """Return the schemas of all messages and of what they are made of, by the names of their classes."""
    definitions: dict[str, Any] = {}
    for model in MESSAGE_OF_KIND.values():
        schema = model.model_json_schema(mode="serialization")
        definitions.update(schema.pop("$defs", {}))
        definitions[model.__name__] = schema
    return definitions


def _describe(definition: dict[str, Any], model: Any) -> None:
    definition["description"] = prose(definition["description"])
    for name, field in definition["properties"].items():
        field["description"] = meaning(model, name)
        field.pop("title", None)
