//! The agent protocol written down: JSON schema and a page, both from the types.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::protocol::{ClientMessage, CloseCode, MessageDoc, server_catalogue};

const TEXT: &str = include_str!("protocol.html");
/// A whole session, one frame a line: `>` from the client, `<` from the server, `#` for what happens in between. The
/// tests hold each frame against the schema and play the client's part against the server.
pub(super) const EXAMPLE: &str = include_str!("example-session.txt");

/// `/api/v1/agent/protocol.json`: JSON Schema 2020-12 of both directions. A frame is valid when it is one of
/// `#/$defs/ClientFrame` or `#/$defs/ServerFrame`.
pub(crate) fn schema() -> Value {
    let mut definitions = Map::new();
    let client = direction(ClientMessage::catalogue(), false, &mut definitions);
    let server = direction(server_catalogue(), true, &mut definitions);
    definitions
        .insert("ClientFrame".into(), json!({"description": "A frame from the client.", "oneOf": client}));
    definitions
        .insert("ServerFrame".into(), json!({"description": "A frame from the server.", "oneOf": server}));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:trunkline:agent-protocol:1",
        "title": "trunkline.v1: the agent protocol",
        "description": "JSON text frames on the WebSocket /api/v1/agent/ws with the subprotocol trunkline.v1.",
        "oneOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": definitions,
    })
}

fn direction(catalogue: Vec<MessageDoc>, server: bool, definitions: &mut Map<String, Value>) -> Vec<Value> {
    let settings = SchemaSettings::draft2020_12();
    let settings = if server { settings.for_serialize() } else { settings.for_deserialize() };
    let mut generator = settings.into_generator();
    let frames = catalogue
        .iter()
        .map(|message| {
            let data = (message.schema)(&mut generator);
            let mut properties = json!({"type": {"const": message.name}, "data": data});
            if server {
                properties["seq"] =
                    json!({"type": "integer", "minimum": 1, "description": "Counts without gaps."});
                properties["re"] =
                    json!({"type": "string", "description": "Id of the frame that this answers."});
            } else {
                properties["id"] = json!({"type": "string", "minLength": 1, "maxLength": 64,
                    "description": "Unique within the session; needed for commands."});
            }
            let optional = matches!(message.name, "hello" | "ack" | "ping");
            let required: &[&str] = match (server, optional) {
                (true, _) => &["seq", "type", "data"],
                (false, true) => &["type", "data"],
                (false, false) => &["id", "type", "data"],
            };
            json!({"title": message.name, "description": message.text, "type": "object",
                "properties": properties, "required": required})
        })
        .collect();
    definitions.extend(generator.take_definitions(true));
    frames
}

/// `/api/v1/agent/protocol`: the page.
pub(crate) fn page() -> String {
    let mut close_codes = String::new();
    for close in CloseCode::ALL {
        let _ = write!(
            close_codes,
            "<tr><td><code>{}</code></td><td>{}</td></tr>",
            close.code(),
            escape(close.remedy())
        );
    }
    TEXT.replace("{{client}}", &table(ClientMessage::catalogue(), false))
        .replace("{{server}}", &table(server_catalogue(), true))
        .replace("{{close}}", &close_codes)
        .replace("{{example}}", &escape(EXAMPLE))
}

fn table(catalogue: Vec<MessageDoc>, server: bool) -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let settings = if server { settings.for_serialize() } else { settings.for_deserialize() };
    let mut generator = settings.into_generator();
    let mut out = String::new();
    for message in catalogue {
        let schema = (message.schema)(&mut generator).to_value();
        let _ = write!(
            out,
            "<tr id=\"{name}\"><td><code>{name}</code></td><td>{text}{fields}</td></tr>",
            name = message.name,
            text = escape(message.text),
            fields = fields(&schema)
        );
    }
    out
}

fn fields(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty())
    else {
        return String::new();
    };
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut out = String::from("<ul>");
    for (name, property) in properties {
        let optional = if required.contains(&name.as_str()) { "" } else { ", may be absent" };
        let _ = write!(
            out,
            "<li><code>{}</code> ({}{optional}): {}{}</li>",
            escape(name),
            escape(&kind(property)),
            escape(property["description"].as_str().unwrap_or_default()),
            fields(object_of(property))
        );
    }
    out + "</ul>"
}

/// The object schema within a nullable one.
fn object_of(schema: &Value) -> &Value {
    let some =
        |list: &'_ Value| list.as_array().and_then(|list| list.iter().position(|s| s["type"] != "null"));
    match some(&schema["anyOf"]) {
        Some(at) => &schema["anyOf"][at],
        None => schema,
    }
}

fn kind(schema: &Value) -> String {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(options) = schema["enum"].as_array() {
        return options.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(options) = schema["oneOf"].as_array() {
        return options.iter().map(kind).collect::<Vec<_>>().join(" | ");
    }
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("array of {}", kind(&schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "any".into(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An independent validator accepts every frame of the documented session in its direction, and the server's types
    /// read the client's frames.
    #[test]
    fn the_example_session_is_valid() {
        let schema = schema();
        let validator = |name: &str| {
            let mut root = schema.clone();
            root.as_object_mut().unwrap().remove("oneOf");
            root["$ref"] = json!(format!("#/$defs/{name}"));
            jsonschema::validator_for(&root).unwrap()
        };
        let (client, server) = (validator("ClientFrame"), validator("ServerFrame"));
        let mut kinds = std::collections::BTreeSet::new();
        for line in EXAMPLE.lines().filter(|line| !line.trim().is_empty()) {
            let (direction, text) = line.split_at(2);
            if direction == "# " {
                continue;
            }
            let frame: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{line}: {e}"));
            kinds.insert((direction.to_owned(), frame["type"].as_str().unwrap().to_owned()));
            let (validator, other) = if direction == "> " { (&client, &server) } else { (&server, &client) };
            let errors: Vec<String> = validator.iter_errors(&frame).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{line}: {errors:?}");
            assert!(!other.is_valid(&frame), "{line} is valid in the other direction too");
        }
        for message in ClientMessage::catalogue() {
            assert!(kinds.contains(&("> ".into(), message.name.into())), "no example of {}", message.name);
        }
        for message in server_catalogue() {
            assert!(kinds.contains(&("< ".into(), message.name.into())), "no example of {}", message.name);
        }
    }

    #[test]
    fn wrong_frames_are_not_valid() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for wrong in [
            json!({"id": "c1", "type": "hold", "data": {}}),
            json!({"id": "c1", "type": "hold", "data": {"on": "yes"}}),
            json!({"type": "hold", "data": {"on": true}}),
            json!({"id": "c1", "type": "explode", "data": {}}),
            json!({"id": "c1", "type": "digits", "data": {"digits": "1x"}}),
            json!({"seq": 0, "type": "pong", "data": {"server_ms": 1}}),
        ] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
    }

    #[test]
    fn the_page_has_every_message_and_no_place_left_open() {
        let page = page();
        for message in ClientMessage::catalogue().into_iter().chain(server_catalogue()) {
            assert!(page.contains(&format!("<tr id=\"{}\">", message.name)), "{}", message.name);
        }
        assert!(!page.contains("{{"), "a placeholder is left");
        assert!(page.contains("caller_number") && page.contains("4409"));
    }
}
