//! Proves what a waiting call costs in the core: at most 5 kB, everything included.

#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use trunkline_call_core::{
    Call, Codec, Destination, Direction, Effect, Incoming, Input, Library, MediaOk, MediaReply, NewCall,
    QueueSignal, Route, Settings, Treatment, flow::Flow,
};
use trunkline_sip::{Message, Request, parse_datagram};
use trunkline_types::{
    CallId, FlowId, Machine, NodeId, Outbox, Output, QueueId, ShardId, TenantId, Timestamp,
};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: hands everything to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct NoFlows(Arc<Treatment>);

impl Library for NoFlows {
    fn flow(&self, _: &TenantId, _: &FlowId) -> Option<Arc<Flow>> {
        None
    }
    fn flow_version(&self, _: &TenantId, _: &FlowId, _: u64) -> Option<Arc<Flow>> {
        None
    }
    fn treatment(&self, _: &TenantId, _: &QueueId) -> Arc<Treatment> {
        self.0.clone()
    }
    fn media_node(&self, _: CallId, _: &NodeId, _: &[NodeId]) -> Option<NodeId> {
        "m1".parse().ok()
    }
}

fn request(method: &str, body: &str, n: u128) -> Request {
    let text = format!(
        "{method} sip:support@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{n}\r\n\
         From: \"Ada Lovelace\" <sip:+493012345678@127.0.0.1>;tag=peer{n}\r\nTo: <sip:support@127.0.0.1>\r\n\
         Call-ID: {n}-0123456789abcdef@127.0.0.1\r\nCSeq: 1 {method}\r\nContact: <sip:ada@127.0.0.1:5070>\r\n\
         Record-Route: <sip:proxy.example.net;lr>\r\nMax-Forwards: 70\r\nUser-Agent: sipp\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    match parse_datagram(&Bytes::from(text)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn waiting(n: u128, library: &Arc<NoFlows>, settings: &Arc<Settings>) -> Call {
    let now = Timestamp::from_millis(1_795_000_000_000);
    let id = CallId::mint(ShardId::new(7).unwrap(), now, n);
    let mut call = Call::new(id, "default".parse().unwrap(), settings.clone(), library.clone());
    let route =
        Route { edge: "e1".parse().unwrap(), source: "127.0.0.1:5070".into(), transport: "udp".into() };
    let new_call = NewCall {
        dialled: "support".into(),
        destination: Destination::Queue("support".parse().unwrap()),
        caller_number: "+493012345678".into(),
        caller_name: "Ada Lovelace".into(),
        contact_uri: format!("sip:c.{id}.0123456789abcdef@127.0.0.1:5060"),
        trunk: String::new(),
    };
    let sdp = "v=0\r\n".repeat(60);
    let invite = Incoming {
        transaction: "t1".into(),
        request: request("INVITE", &sdp, n),
        route: route.clone(),
        new_call: Some(Box::new(new_call)),
    };
    let mut out = Outbox::new();
    let tag = std::cell::RefCell::new(None);
    let mut step = |call: &mut Call, input| {
        call.handle(now, input, &mut out);
        let mut open = None;
        for item in out.drain() {
            match item {
                Output::Effect(Effect::Media { command, .. }) => open = Some(command.id),
                Output::Effect(Effect::Edge {
                    command: trunkline_call_core::EdgeCommand::Respond { response, .. },
                    ..
                }) => *tag.borrow_mut() = response.headers.to_tag(),
                _ => {}
            }
        }
        open
    };
    let mut open = step(&mut call, Input::Request(Box::new(invite)));
    while let Some(command) = open {
        let ok = MediaOk {
            sdp: Bytes::from(sdp.clone()),
            codec: Some(Codec::Pcmu),
            direction: Some(Direction::SendRecv),
            sessions: Vec::new(),
            no_recogniser: false,
        };
        open = step(&mut call, Input::MediaReply(Box::new(MediaReply { command, result: Ok(ok) })));
    }
    let queued = QueueSignal::Queued { position: 0 };
    step(&mut call, Input::Queue { queue: "support".parse().unwrap(), entry: 0, signal: queued });
    let tag = tag.borrow().clone().unwrap();
    let text = request("ACK", "", n).to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let text = text.replace("To: <sip:support@127.0.0.1>", &format!("To: <sip:support@127.0.0.1>;tag={tag}"));
    let Ok(Message::Request(ack)) = parse_datagram(&Bytes::from(text)) else { panic!() };
    let ack = Incoming { transaction: String::new(), request: ack, route, new_call: None };
    step(&mut call, Input::Request(Box::new(ack)));
    call
}

#[test]
fn a_waiting_call_takes_at_most_five_kilobytes() {
    let library = Arc::new(NoFlows(Arc::new(Treatment::default())));
    let settings = Arc::new(Settings::default());
    let warm = waiting(0, &library, &settings);
    assert!(
        warm.next_deadline().unwrap()
            > Timestamp::from_millis(1_795_000_000_000).plus(Duration::from_secs(5))
    );
    let mut calls = Vec::with_capacity(1_000);
    let before = LIVE.load(Ordering::Relaxed);
    for n in 1..=1_000 {
        calls.push(waiting(n, &library, &settings));
    }
    let each = (LIVE.load(Ordering::Relaxed) - before) as usize / 1_000 + size_of::<Call>();
    println!("{each} bytes a waiting call, {} of them the machine itself", size_of::<Call>());
    assert!(each <= 5_000, "{each} bytes");
}
