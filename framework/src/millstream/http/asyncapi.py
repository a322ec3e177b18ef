"""The AsyncAPI 3.0 document of a set of services: what `millstream asyncapi` prints and `/asyncapi.json` serves.

A topic is a channel, a subscription a `receive` operation, what a service publishes a `send` operation. Every message is
a CloudEvents 1.0 envelope in structured mode, its `data` the event. The same declarations give the same bytes: nothing
in it depends on the moment, the machine or the order of imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from ..message import EventType
from ..service.service import Consumes, Service
from ..service.topics import TopicUse, published_by, topics_of

__all__ = ["asyncapi", "asyncapi_json"]

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_ENVELOPE: Json = {
    "title": "CloudEvents 1.0 envelope",
    "type": "object",
    "required": ["specversion", "id", "source", "type", "time", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "description": "Unique within its source; what the inbox recognises a copy by."},
        "source": {"type": "string", "description": "The service that published it."},
        "type": {"type": "string"},
        "subject": {"type": "string", "description": "The key: messages of the same key are handled in order."},
        "time": {"type": "string", "format": "date-time", "description": "When its outbox row was written."},
        "datacontenttype": {"const": "application/json"},
        "dataversion": {"type": "integer", "minimum": 1, "default": 1, "description": "Version of the event."},
        "correlationid": {"type": "string", "description": "Shared by everything one request caused."},
        "causationid": {"type": "string", "description": "Id of the message that caused this one."},
        "traceparent": {"type": "string", "description": "W3C trace context."},
        "tracestate": {"type": "string"},
        "deadline": {"type": "string", "format": "date-time"},
        "tenant": {"type": "string"},
        "data": {},
    },
}


def asyncapi(services: Iterable[Service], *, title: str = "Millstream", version: str = "1") -> Json:
    """The document as plain values. `version` is that of the described services, for the reader."""
    ordered = sorted(services, key=lambda service: service.name)
    topics = topics_of(ordered)
    events = [declared for topic in topics for declared in topic.events]
    references, schemas = _schemas(events)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, "description": _description(ordered)},
        "defaultContentType": "application/cloudevents+json",
        "channels": {topic.topic: _channel(topic) for topic in topics},
        "operations": _operations(ordered),
        "components": {
            "messages": {_name(declared): _message(declared, references[id(declared.cls)]) for declared in events},
            "schemas": {"CloudEvent": _ENVELOPE, **schemas},
        },
    }


def asyncapi_json(services: Iterable[Service], *, title: str = "Millstream", version: str = "1") -> bytes:
    """The document as JSON with sorted keys: equal declarations give equal bytes."""
    document = asyncapi(services, title=title, version=version)
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2)


def _description(services: Sequence[Service]) -> str:
    return "Events of " + ", ".join(service.name for service in services) + "." if services else "No services."


def _name(declared: EventType) -> str:
    return f"{declared.name}.v{declared.version}"


def _channel(topic: TopicUse) -> Json:
    messages = {_name(declared): {"$ref": f"#/components/messages/{_name(declared)}"} for declared in topic.events}
    return {"address": topic.topic, "messages": messages}


def _message(declared: EventType, data: Json) -> Json:
    key = f"Ordered by `{declared.key}`." if declared.key else "Has no key: it is ordered with no other message."
    about = {
        "type": {"const": declared.name},
        "dataversion": {"const": declared.version},
        "data": data,
    }
    return {
        "name": declared.name,
        "title": f"{declared.name}, version {declared.version}",
        "summary": key,
        "contentType": "application/cloudevents+json",
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {"allOf": [{"$ref": f"{_SCHEMAS}CloudEvent"}, {"type": "object", "properties": about}]},
    }


def _operations(services: Sequence[Service]) -> Json:
    operations: Json = {}
    for service in services:
        by_topic: dict[str, list[EventType]] = {}
        for declared in published_by(service):
            by_topic.setdefault(declared.topic, []).append(declared)
        for topic, events in by_topic.items():
            operations[f"{service.name}.publishes.{topic}"] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": f"{service.name} publishes.",
                "messages": _on_channel(topic, events),
            }
        for consumes in sorted(service.consumes, key=lambda c: c.name):
            operations[f"{service.name}.{consumes.name}"] = _subscription(service, consumes)
    return operations


def _subscription(service: Service, consumes: Consumes) -> Json:
    kind = "calls the outside world, at least once" if consumes.effect else "handles in a transaction"
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{consumes.topic}"},
        "summary": f"{service.name} {kind}.",
        "messages": _on_channel(consumes.topic, consumes.events),
        "x-millstream": {
            "subscription": consumes.name,
            "effect": consumes.effect,
            "attempts": consumes.retry.attempts,
            "afterDeadLetter": consumes.after_dead_letter,
        },
    }


def _on_channel(topic: str, events: Iterable[EventType]) -> list[Json]:
    return [{"$ref": f"#/channels/{topic}/messages/{_name(declared)}"} for declared in events]


def _schemas(events: Sequence[EventType]) -> tuple[dict[int, Json], Json]:
    """References to the schemas of the events' data by class, and the schemas they stand for, by name."""
    pydantic = [declared for declared in events if hasattr(declared.cls, "model_json_schema")]
    plain = [declared for declared in events if not hasattr(declared.cls, "model_json_schema")]
    # The order of types decides how msgspec names two classes of one name, so it must not depend on imports.
    found, components = msgspec.json.schema_components(
        [declared.cls for declared in plain], schema_hook=_anything, ref_template=_SCHEMAS + "{name}"
    )
    references = {id(declared.cls): dict(schema) for declared, schema in zip(plain, found, strict=True)}
    schemas: Json = {name: components[name] for name in sorted(components)}
    for declared in pydantic:
        schema = cast(Any, declared.cls).model_json_schema(ref_template=_SCHEMAS + declared.name + ".{model}")
        for name, inner in schema.pop("$defs", {}).items():
            schemas[f"{declared.name}.{name}"] = inner
        schemas[_name(declared)] = schema
        references[id(declared.cls)] = {"$ref": f"{_SCHEMAS}{_name(declared)}"}
    return references, schemas


def _anything(_: type[Any]) -> Json:
    """A type that only its own decoder knows."""
    return {}
