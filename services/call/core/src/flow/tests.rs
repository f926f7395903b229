use super::{FLOW_SCHEMA, Flow};

const MENU: &str = include_str!("../../../flows/menu.yaml");

fn problems(text: &str) -> Vec<String> {
    Flow::parse(text, 1).unwrap_err().problems.iter().map(ToString::to_string).collect()
}

fn flow(nodes: &str) -> String {
    format!("flow: f\nstart: a\nnodes:\n{nodes}")
}

#[test]
fn the_sample_flow_is_right() {
    let flow = Flow::parse(MENU, 3).unwrap();
    assert_eq!((flow.id().as_str(), flow.version(), flow.nodes().len()), ("menu", 3, 6));
    assert_eq!(flow.queues().iter().map(|q| q.as_str()).collect::<Vec<_>>(), ["sales", "support"]);
    assert_eq!(flow.prompts(), ["goodbye", "greeting", "invalid", "menu", "no-input", "queue-full"]);
}

#[test]
fn all_mistakes_are_told_at_once_with_node_and_field() {
    let text = flow(
        "  a: { play: { prompts: [], next: nowhere } }\n  b: { menu: { prompts: [x], choices: { \"1\": gone }, \
         tries: 0, on_invalid: a, on_timeout: a } }\n  c: { enqueue: { queue: \"No!\", priority: 101 } }\n  \
         d: { enqueue: { queue: q, attributes: { Bad: \"${x\" } } }\n",
    );
    let found = problems(&text).join("\n");
    for part in [
        "nodes.a.play.prompts: use 1 to 16 prompts",
        "nodes.a.play.next: there is no node \"nowhere\"",
        "nodes.b.menu.choices.1: there is no node \"gone\"",
        "nodes.b.menu.tries: use 1 to 10",
        "nodes.c.enqueue.queue:",
        "nodes.c.enqueue.priority: use -100 to 100",
        "nodes.d.enqueue.attributes.Bad: an attribute's name",
        "nodes.d.enqueue.attributes.Bad: \"${\" is not closed",
    ] {
        assert!(found.contains(part), "{part:?} not in\n{found}");
    }
}

#[test]
fn unknown_fields_kinds_and_keys_are_refused_with_their_names() {
    assert!(
        problems(&flow("  a: { play: { prompt: [x], next: a } }\n"))[0].contains("unknown field `prompt`")
    );
    assert!(problems(&flow("  a: { playy: {} }\n"))[0].contains("unknown kind of node"));
    assert!(problems(&flow("  a: { play: {}, menu: {} }\n"))[0].contains("exactly one of"));
    let menu = "  a: { menu: { prompts: [x], choices: { \"12\": a }, on_invalid: a, on_timeout: a } }\n";
    assert!(problems(&flow(menu))[0].contains("\"12\" is not a key"), "{:?}", problems(&flow(menu)));
    let menu =
        "  a: { menu: { prompts: [x], choices: { 1: a }, timeout: soon, on_invalid: a, on_timeout: a } }\n";
    assert!(problems(&flow(menu))[0].contains("\"soon\" is not a time"));
    assert!(problems("flow: f\nstart: a\nnodes: {}\nnode: 1")[0].contains("unknown field `node`"));
    assert!(problems("{")[0].starts_with("flow: "));
}

#[test]
fn unreachable_nodes_and_circles_without_a_wait_are_found() {
    let found = problems(&flow("  a: { hangup: {} }\n  b: { hangup: {} }\n"));
    assert!(found[0].starts_with("nodes.b: no way leads here"), "{found:?}");
    let circle = "  a: { set: { attributes: { x: 1 }, next: b } }\n  b: { branch: { variable: x, cases: { 1: c }, \
                  otherwise: a } }\n  c: { hangup: {} }\n";
    assert!(problems(&flow(circle))[0].contains("never wait"));
    let waits = "  a: { set: { attributes: { x: 1 }, next: b } }\n  b: { play: { prompts: [x], next: a } }\n";
    assert!(Flow::parse(&flow(waits), 1).is_ok());
}

/// The schema is written by hand: this compares its fields with what the reader takes.
#[test]
fn the_schema_and_the_reader_know_the_same_fields() {
    let schema: serde_yaml_ng::Value = serde_yaml_ng::from_str(FLOW_SCHEMA).unwrap();
    for kind in ["play", "menu", "collect", "branch", "set", "enqueue", "hangup"] {
        let found = problems(&flow(&format!("  a: {{ {kind}: {{ no_such_field: 1 }} }}\n")));
        let known: std::collections::BTreeSet<&str> =
            found[0].split_once("expected").unwrap().1.split('`').skip(1).step_by(2).collect();
        let properties = schema["$defs"][kind]["properties"].as_mapping().unwrap();
        let listed = properties.keys().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(known, listed, "{kind}: {found:?}");
    }
}
