use std::collections::BTreeSet;

use super::support::{World, call_id, recording_id};

/// Role × operation, written out by hand beside the server's own table: what each account gets. The operations are all
/// those of the OpenAPI document.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_gets_what_is_its_own_and_nothing_else() {
    let world = World::start().await;
    let accounts = ["", "ned", "alice", "sue", "ada"];
    let (call, recording) = (call_id(1).to_string(), recording_id(1));
    let matrix: Vec<(&str, String, [u16; 5])> = vec![
        ("getSession", "/api/v1/session".into(), [401, 403, 200, 200, 200]),
        ("listContacts", "/api/v1/contacts".into(), [401, 403, 200, 200, 200]),
        ("getContact", format!("/api/v1/contacts/{call}"), [401, 403, 200, 200, 200]),
        ("getRecordingAudio", format!("/api/v1/recordings/{recording}/audio"), [401, 403, 200, 200, 200]),
        ("getLive", "/api/v1/live".into(), [401, 403, 403, 200, 200]),
        ("watchLive", "/api/v1/live/stream".into(), [401, 403, 403, 0, 0]),
        (
            "getIntervals",
            "/api/v1/intervals?queue=support&from_ms=1&to_ms=2".into(),
            [401, 403, 403, 200, 200],
        ),
        ("listQueues", "/api/v1/queues".into(), [401, 403, 200, 200, 200]),
        ("listAgents", "/api/v1/agents".into(), [401, 403, 403, 200, 200]),
        ("getCluster", "/api/v1/cluster".into(), [401, 403, 403, 200, 200]),
        ("drainNode", "/api/v1/cluster/nodes/node-1/drain".into(), [401, 403, 403, 403, 204]),
        ("undrainNode", "/api/v1/cluster/nodes/node-1/undrain".into(), [401, 403, 403, 403, 204]),
        // Not an upgrade: 400 for whoever got past the guard.
        ("agentSocket", "/api/v1/agent/ws".into(), [400, 403, 400, 403, 403]),
        ("getAgentProtocolSchema", "/api/v1/agent/protocol.json".into(), [200; 5]),
        ("getAgentProtocol", "/api/v1/agent/protocol".into(), [200; 5]),
        ("getOpenApi", "/api/v1/openapi.json".into(), [200; 5]),
    ];
    let mut tested: BTreeSet<String> = ["signIn", "signOut"].map(String::from).into();
    for (column, name) in accounts.into_iter().enumerate() {
        let token = if name.is_empty() { String::new() } else { world.token(name).await };
        for (operation, path, expected) in &matrix {
            tested.insert((*operation).to_owned());
            // An event stream does not end; `live` tests it.
            if expected[column] == 0 {
                continue;
            }
            let method = if operation.ends_with("Node") { "POST" } else { "GET" };
            let bearer = format!("Bearer {token}");
            let headers = if name.is_empty() { vec![] } else { vec![("authorization", bearer.as_str())] };
            let answer = world.send(method, path, &headers, "").await;
            assert_eq!(answer.status, expected[column], "{name:?} {operation}: {}", answer.text());
            if answer.status >= 400 {
                assert_eq!(answer.header("content-type"), "application/problem+json");
                assert_eq!(answer.json()["status"], answer.status);
            }
        }
        let expected = [401, 403, 204, 204, 204][column];
        let answer = if name.is_empty() {
            world.send("DELETE", "/api/v1/session", &[], "").await
        } else {
            world
                .send("DELETE", "/api/v1/session", &[("authorization", &format!("Bearer {token}"))], "")
                .await
        };
        assert_eq!(answer.status, expected, "{name:?} signOut");
    }
    let document = world.send("GET", "/api/v1/openapi.json", &[], "").await.json();
    let published: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tested, published, "an operation has no row here");
}

/// Agents see their own contacts only, whatever they ask for; others' do not exist for them. Tenants never see each
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn contacts_stay_with_their_agent_and_their_tenant() {
    let world = World::start().await;
    let (alice, sue, olga) =
        (world.token("alice").await, world.token("sue").await, world.token("olga").await);
    let ids = |answer: &super::support::Answer| -> Vec<String> {
        let page = answer.json();
        page["contacts"].as_array().unwrap().iter().map(|c| c["call_id"].as_str().unwrap().into()).collect()
    };
    assert_eq!(ids(&world.get("/api/v1/contacts", &alice).await), [call_id(1).to_string()]);
    assert_eq!(world.get("/api/v1/contacts?agent=bob", &alice).await.status, 403);
    assert_eq!(world.get("/api/v1/contacts?agent=alice", &alice).await.status, 200);
    assert_eq!(ids(&world.get("/api/v1/contacts", &sue).await).len(), 2);
    assert_eq!(ids(&world.get("/api/v1/contacts", &olga).await), [call_id(3).to_string()]);

    for (token, n, expected) in [
        (&alice, 1, 200),
        (&alice, 2, 404),
        (&alice, 3, 404),
        (&sue, 2, 200),
        (&sue, 3, 404),
        (&olga, 1, 404),
    ] {
        let answer = world.get(&format!("/api/v1/contacts/{}", call_id(n)), token).await;
        assert_eq!(answer.status, expected, "contact {n}");
        let answer = world.get(&format!("/api/v1/recordings/{}/audio", recording_id(n)), token).await;
        assert_eq!(answer.status, expected, "recording {n}");
    }
    let listed = world.records.listed.lock();
    assert!(listed.iter().all(|request| request.page_size == 50 && !request.tenant.is_empty()));
}
