use serde_json::json;

use super::support::{EVIL, HOME, World, call_id};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Sign-in gives a cookie that scripts cannot read and a token; both show the same user; sign-out ends both.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_and_ends() {
    let world = World::start().await;
    let answer = world.try_sign_in("alice", "alice-dev").await;
    assert_eq!(answer.status, 200);
    let set = answer.header("set-cookie");
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && set.contains("Path=/"), "{set}");
    assert!(!set.contains("Secure"), "loopback has no TLS: {set}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let user = json!({"name": "alice", "display_name": EVIL, "roles": ["agent"], "tenant": "default",
        "agent_id": "alice"});
    assert_eq!(answer.json()["user"], user);
    assert!(answer.json()["expires_ms"].as_i64().unwrap() > 1_700_000_000_000);

    let cookie = answer.cookie();
    let by_cookie = world.send("GET", "/api/v1/session", &[("cookie", &cookie)], "").await;
    assert_eq!((by_cookie.status, by_cookie.json()), (200, user));
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let ended =
        world.send("DELETE", "/api/v1/session", &[("authorization", &format!("bearer {token}"))], "").await;
    assert_eq!(ended.status, 204);
    assert!(ended.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(world.send("GET", "/api/v1/session", &[("cookie", &cookie)], "").await.status, 401);
    assert_eq!(world.get("/api/v1/session", &token).await.status, 401);
    assert_eq!(world.get("/api/v1/session", &world.token("alice").await).await.status, 200, "others live on");
}

/// A wrong token is not replaced by a good cookie, and a changed password or a removed account ends sessions.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_what_they_stand_on() {
    let world = World::start().await;
    let cookie = world.try_sign_in("bob", "bob-dev").await.cookie();
    let both = [("cookie", cookie.as_str()), ("authorization", "Bearer tl1.x.y.z")];
    assert_eq!(world.send("GET", "/api/v1/session", &both, "").await.status, 401);
    assert_eq!(world.send("GET", "/api/v1/session", &both[..1], "").await.status, 200);
    let hash = trunkline_console::hash_password("new", super::support::COST).unwrap();
    world.directory.accounts.lock().get_mut("bob").unwrap().password_hash = hash;
    assert_eq!(world.send("GET", "/api/v1/session", &both[..1], "").await.status, 401);
    let token = world.token("sue").await;
    world.directory.accounts.lock().remove("sue");
    assert_eq!(world.get("/api/v1/session", &token).await.status, 401);
}

/// Unknown names and wrong passwords give the same answer; after five failures 429 says how long to wait, for names that
/// exist and names that do not alike.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_and_tells_nothing() {
    let world = World::start().await;
    let (known, unknown) = (world.try_sign_in("alice", "x").await, world.try_sign_in("nobody", "x").await);
    assert_eq!((known.status, known.body), (401, unknown.body));
    assert_eq!(unknown.status, 401);
    for name in ["alice", "nobody"] {
        for _ in 0..4 {
            assert_eq!(world.try_sign_in(name, "x").await.status, 401, "{name} at {HOME}");
        }
        let throttled = world.try_sign_in(name, &format!("{name}-dev")).await;
        assert_eq!(throttled.status, 429, "the right password waits too");
        assert!(throttled.header("retry-after").parse::<u32>().unwrap() >= 1);
    }
    assert_eq!(world.try_sign_in("bob", "bob-dev").await.status, 200, "others are not slowed");
}

/// With the cookie, what changes something has to come from a page of this server.
#[tokio::test(flavor = "multi_thread")]
async fn other_sites_cannot_use_the_cookie() {
    let world = World::start().await;
    let cookie = world.try_sign_in("alice", "alice-dev").await.cookie();
    let own = format!("http://{}", world.address);
    for (headers, expected) in [
        (vec![], 403),
        (vec![("origin", "http://evil.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("sec-fetch-site", "same-site"), ("origin", own.as_str())], 403),
        (vec![("origin", own.as_str())], 204),
    ] {
        let all: Vec<_> = headers.iter().copied().chain([("cookie", cookie.as_str())]).collect();
        let answer = world.send("DELETE", "/api/v1/session", &all, "").await;
        assert_eq!(answer.status, expected, "{headers:?} {}", answer.text());
    }
    let body = json!({"name": "alice", "password": "alice-dev"}).to_string();
    let login =
        world.send("POST", "/api/v1/session", &[JSON, ("origin", "http://evil.example")], &body).await;
    assert_eq!(login.status, 403, "nor sign somebody in");
}

/// Bad input is named: what is wrong, in which field.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() {
    let world = World::start().await;
    let session = "/api/v1/session";
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    for (headers, body, status, field) in [
        (vec![JSON], r#"{"name": "alice"}"#, 400, Some("password")),
        (vec![JSON], r#"{"name": 5, "password": "x"}"#, 400, Some("name")),
        (vec![JSON], r#"{"name": "", "password": "x"}"#, 400, Some("name")),
        (vec![JSON], r#"{"name": "a", "password": "x", "extra": 1}"#, 400, Some("extra")),
        (vec![JSON], r#"{"name": "#, 400, Some("name")),
        (vec![JSON], "[", 400, None),
        (vec![JSON], large.as_str(), 413, None),
        (vec![], r#"{"name": "a", "password": "x"}"#, 415, None),
    ] {
        let answer = world.send("POST", session, &headers, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.json()["field"].as_str(), field, "{}", answer.text());
    }
    let sue = world.token("sue").await;
    for (path, field) in [
        ("/api/v1/contacts?page_size=0", "page_size"),
        ("/api/v1/contacts?page_size=201", "page_size"),
        ("/api/v1/contacts?page_size=many", "page_size"),
        ("/api/v1/contacts?queue=No%20Queue", "queue"),
        ("/api/v1/contacts?agent=%3Cb%3E", "agent"),
        ("/api/v1/contacts?outcome=good", "outcome"),
        ("/api/v1/contacts?from_ms=-1", "from_ms"),
        ("/api/v1/contacts?from_ms=5&to_ms=5", "to_ms"),
        ("/api/v1/contacts?colour=red", "colour"),
        ("/api/v1/contacts/xyz", "call_id"),
        ("/api/v1/recordings/xyz/audio", "recording_id"),
        ("/api/v1/intervals?queue=support&from_ms=0", "to_ms"),
        ("/api/v1/intervals?queue=support&from_ms=0&to_ms=9000000000000&interval_s=300", "to_ms"),
        ("/api/v1/intervals?queue=support&from_ms=0&to_ms=1&interval_s=5", "interval_s"),
    ] {
        let answer = world.get(path, &sue).await;
        assert_eq!(
            (answer.status, answer.json()["field"].as_str()),
            (400, Some(field)),
            "{path}: {}",
            answer.text()
        );
    }
    assert_eq!(world.get("/api/v1/nothing", &sue).await.status, 404);
    assert_eq!(world.send("PUT", session, &[], "").await.status, 405);
}

/// Names that look like markup leave as JSON strings, with a type that no browser renders.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_never_markup() {
    let world = World::start().await;
    let token = world.token("sue").await;
    for path in
        ["/api/v1/agents", "/api/v1/live", "/api/v1/contacts", &format!("/api/v1/contacts/{}", call_id(1))]
    {
        let answer = world.get(path, &token).await;
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.text().contains("<script>"), "{path} has the name: this test tests something");
    }
    let missing = world.get("/api/v1/contacts?queue=%3Cscript%3E", &token).await;
    assert_eq!(missing.header("content-type"), "application/problem+json");
}

/// The list is paged, ETags save the second answer.
#[tokio::test(flavor = "multi_thread")]
async fn pages_and_etags() {
    let world = World::start().await;
    let token = world.token("sue").await;
    let bearer = format!("Bearer {token}");
    let path = "/api/v1/contacts?page_size=2&cursor=abc&queue=support&caller=%2B49&outcome=answered&from_ms=1&to_ms=2";
    let page = world.get(path, &token).await;
    assert_eq!(page.json()["next_cursor"], "more");
    let asked = world.records.listed.lock().pop().unwrap();
    assert_eq!(
        (asked.page_size, asked.cursor.as_str(), asked.caller.as_str(), asked.from_us, asked.to_us),
        (2, "abc", "+49", 1_000, 2_000)
    );
    let contact = format!("/api/v1/contacts/{}", call_id(1));
    for path in [contact.as_str(), "/api/v1/queues", "/api/v1/openapi.json"] {
        let first = world.get(path, &token).await;
        let tag = first.header("etag").to_owned();
        let again = world.send("GET", path, &[("authorization", &bearer), ("if-none-match", &tag)], "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path} {tag}");
    }
    let detail = world.get(&contact, &token).await.json();
    assert_eq!(detail["ended_ms"], serde_json::Value::Null);
    assert_eq!(detail["recordings"][0]["holds"][0]["reason"], "hold");
    let url = detail["recordings"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&url, &token).await.status, 200);
    let interval =
        world.get("/api/v1/intervals?queue=support&from_ms=60000&to_ms=120000", &token).await.json();
    assert_eq!(interval["intervals"][0]["start_ms"], 60_000);
    assert_eq!(interval["intervals"][0]["service_level"], serde_json::Value::Null);
}
