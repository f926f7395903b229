use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::routes::{Answer, PREFIX, Route, routes};
use crate::{auth::Access, problem::ProblemBody};

/// OpenAPI 3.1 of the table of routes; schemas are those of the Rust types.
pub(crate) fn document() -> Value {
    let settings = |inline| {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.inline_subschemas = inline;
            settings.meta_schema = None;
        })
    };
    // What is sent and what is taken differ in which fields are required: two generators.
    let mut answers = settings(false).for_serialize().into_generator();
    let mut questions = settings(true).for_deserialize().into_generator();
    let problem = answers.subschema_for::<ProblemBody>().to_value();
    let mut paths = Map::new();
    for route in routes() {
        let path = format!("{PREFIX}{}", route.path);
        let operation = operation(&route, &mut answers, &mut questions, &problem);
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trunkline",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Sign-in, contacts, recordings, live numbers and the agents' WebSocket. Times are milliseconds since the Unix epoch. Errors are application/problem+json (RFC 9457). With the cookie, requests that change something have to come from a page of the same origin; scripts use the bearer token.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": answers.take_definitions(true),
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": crate::auth::COOKIE},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

fn operation(
    route: &Route,
    answers: &mut SchemaGenerator,
    questions: &mut SchemaGenerator,
    problem: &Value,
) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "responses": responses(route, answers, problem),
    });
    let parameters = parameters(route, questions);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = route.body {
        let schema = body(questions).to_value();
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation["security"] = match route.access {
        Access::Public => json!([]),
        Access::With(_) | Access::Socket(_) => json!([{"cookie": []}, {"bearer": []}]),
    };
    if let Some(right) = route.access.right() {
        operation["x-trunkline-roles"] = json!(right.roles());
    }
    operation
}

fn parameters(route: &Route, questions: &mut SchemaGenerator) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if let Some(query) = route.query {
        let schema = query(questions).to_value();
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let mut property = property.clone();
            let text = property.as_object_mut().and_then(|fields| fields.remove("description"));
            let required = required.contains(&name.as_str());
            parameters.push(json!({"name": name, "in": "query", "required": required,
                "description": text, "schema": property}));
        }
    }
    parameters
}

fn responses(route: &Route, answers: &mut SchemaGenerator, problem: &Value) -> Value {
    let content =
        |kind: &str, schema: Value| json!({"description": "Done.", "content": {kind: {"schema": schema}}});
    let mut responses = Map::new();
    let (status, success) = match route.answer {
        Answer::Json(schema) => ("200", content("application/json", schema(answers).to_value())),
        Answer::Document => ("200", content("application/json", json!({"type": "object"}))),
        Answer::Html => ("200", content("text/html", json!({"type": "string"}))),
        Answer::Wav => ("200", content("audio/wav", json!({}))),
        Answer::Events(schema) => {
            // The form of one event's data stands in for the stream, as OpenAPI 3.1 has no words for it.
            let schema = schema(answers).to_value();
            (
                "200",
                json!({"description": "Events `live`; their data have this form.",
                "content": {"text/event-stream": {"schema": schema}}}),
            )
        }
        Answer::Nothing => ("204", json!({"description": "Done."})),
        Answer::WebSocket => ("101", json!({"description": "The WebSocket begins."})),
    };
    responses.insert(status.into(), success);
    if matches!(route.answer, Answer::Wav) {
        responses.insert("206".into(), content("audio/wav", json!({})));
    }
    let by_access: &[u16] = match route.access {
        Access::Public => &[],
        Access::With(_) => &[401, 403],
        Access::Socket(_) => &[403],
    };
    for status in by_access.iter().chain(route.errors) {
        let code = http::StatusCode::from_u16(*status).ok();
        let text = code.and_then(|code| code.canonical_reason()).unwrap_or("Error");
        responses.insert(
            status.to_string(),
            json!({"description": text, "content": {"application/problem+json": {"schema": problem}}}),
        );
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(ToOwned::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    /// Structure by OpenAPI 3.1: unique operation ids, responses everywhere, path parameters declared, references that
    /// lead somewhere, and schemas that a JSON Schema validator takes.
    #[test]
    fn the_document_is_sound() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let at = format!("{method} {path}");
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}");
                assert!(!operation["summary"].as_str().unwrap().is_empty(), "{at} has no summary");
                assert!(!operation["responses"].as_object().unwrap().is_empty(), "{at}");
                let declared: BTreeSet<&str> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|p| p["in"] == "path")
                    .map(|p| p["name"].as_str().unwrap())
                    .collect();
                let used: BTreeSet<&str> =
                    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
                assert_eq!(declared, used, "{at}");
            }
        }
        assert_eq!(names.len(), routes().len());
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let schema =
                json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
            assert!(jsonschema::validator_for(&schema).is_ok(), "{name}");
        }
    }

    #[test]
    fn fields_that_may_be_null_are_there() {
        let document = document();
        let live = &document["components"]["schemas"]["QueueLive"];
        assert!(live["required"].as_array().unwrap().contains(&json!("service_level")));
        assert_eq!(live["properties"]["service_level"]["type"], json!(["number", "null"]));
    }
}
