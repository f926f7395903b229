//! Trouble for a watched cluster: what dashboards and rules show of it is more than a line at zero afterwards.
//!
//! Each fault stays until Prometheus has seen what it does, and is over before the next.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::net::{TcpStream, UdpSocket};
use trunkline_faults::{
    net::{Rule, Share, between},
    people::Crowd,
    world::{CLIENTS, SIP_PORT, VIRTUAL_SIP},
};
use trunkline_system_tests::{s, until};

use super::lab::{AGENTS, Lab};

/// Whoever hangs up later than the sample queue's `short_abandon` has given up.
const PATIENCE: Duration = s(6);
const SEEN_WITHIN: Duration = s(40);

impl Lab {
    /// All of it, one after the other. Afterwards every node serves. Calls came before: what a series begins with, no rate
    /// tells.
    pub async fn trouble(&mut self, folder: &Path) -> Result<()> {
        // Whoever waits still would be served before those who come.
        let waiting = self.stage.crowd.present();
        self.stage.crowd.hang_up(waiting).await?;
        self.strangers().await.context("strangers")?;
        self.silence().await.context("a caller who is not heard")?;
        self.bad_line().await.context("a bad line")?;
        self.no_store().await.context("a store that takes nothing")?;
        self.media_node_dies().await.context("a media node dies")?;
        self.drain("m2", folder).await.context("a media node is drained")?;
        self.owner_stops().await.context("an owner stops")?;
        self.etcd_is_away().await.context("etcd is away")?;
        self.journal_is_away().await.context("the journal is away")
    }

    /// Waits until a query has been above zero for as long as nobody can miss who looks every two seconds.
    pub(super) async fn seen(&self, query: &str) -> Result<()> {
        let lasting = format!("count_over_time(({query} > 0)[3s:1s]) >= 3");
        until(&format!("Prometheus sees {query}"), SEEN_WITHIN, async || {
            Ok(self
                .prometheus
                .now(&lasting)
                .await?
                .iter()
                .any(|series| !series.values.is_empty())
                .then_some(()))
        })
        .await
    }

    /// What is no SIP, what is SIP with a fault, and a connection that says nothing.
    async fn strangers(&self) -> Result<()> {
        let socket = UdpSocket::bind((self.world.network.address(CLIENTS)?, 0)).await?;
        let faulty = format!(
            "INVITE sip:support@{VIRTUAL_SIP} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK-strange\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:support@{VIRTUAL_SIP}>\r\nCall-ID: strange\r\nCSeq: 1 BYE\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            socket.local_addr()?
        );
        for strange in [b"GET / HTTP/1.1\r\n\r\n", faulty.as_bytes()] {
            socket.send_to(strange, (VIRTUAL_SIP, SIP_PORT)).await?;
        }
        let open = TcpStream::connect((VIRTUAL_SIP, SIP_PORT)).await.context("SIP over TCP")?;
        self.seen("sum(increase(trunkline_sip_dropped_total[15s]))").await?;
        self.seen("sum(increase(trunkline_sip_rejected_total[15s]))").await?;
        self.seen("sum(trunkline_sip_connections)").await?;
        drop(open);
        Ok(())
    }

    /// Nothing comes from a caller who waits, and who gives up.
    async fn silence(&self) -> Result<()> {
        self.stage.desk.order(|orders| orders.open = 0);
        let clients = self.world.network.address(CLIENTS)?.into();
        let silent =
            Crowd::start(clients, (VIRTUAL_SIP, SIP_PORT).into(), false, &self.stage.history).await?;
        let who = silent.wait(1, 1.0, s(20)).await?;
        tokio::time::sleep(PATIENCE).await;
        silent.hang_up(who).await?;
        self.seen("sum(increase(trunkline_call_legs_one_way_total{party=\"caller\"}[15s]))").await?;
        self.seen("sum(increase(trunkline_acd_queue_outcomes_total{outcome=\"abandoned\"}[15s]))").await
    }

    /// A third of the packets between people and media is lost while some talk.
    async fn bad_line(&mut self) -> Result<()> {
        let network = &mut self.world.network;
        let media: Vec<Ipv4Addr> =
            ["m1", "m2"].iter().map(|name| network.address(name)).collect::<Result<_>>()?;
        let bad = |from, to| Rule::bad(from, to, Share::percent(33), Share::percent(0));
        let who = self.stage.talk(2, s(30)).await?;
        let network = &mut self.world.network;
        network.set_rules("bad line", between(&[network.address(CLIENTS)?], &media, bad))?;
        // Measured every ten seconds.
        self.seen("sum(increase(trunkline_media_mos_bucket{le=\"3.5\"}[15s]))").await?;
        self.world.network.clear_rules("bad line")?;
        self.hang_up(who).await?;
        self.seen("sum(increase(trunkline_media_packets_lost_total[15s]))").await?;
        self.seen("sum(increase(trunkline_call_leg_mos_bucket{party=\"caller\",le=\"3.5\"}[15s]))").await
    }

    async fn hang_up(&self, who: std::ops::Range<usize>) -> Result<()> {
        self.stage.desk.order(|orders| orders.open = 0);
        self.stage.crowd.hang_up(who.clone()).await?;
        self.stage.crowd.over(who, s(30)).await
    }

    /// Recordings are finished while a file is in the place of their folder.
    async fn no_store(&self) -> Result<()> {
        let (store, aside) = (self.world.recordings(), self.world.recordings().with_extension("aside"));
        let who = self.stage.talk(1, s(30)).await?;
        std::fs::rename(&store, &aside)?;
        std::fs::write(&store, "")?;
        self.hang_up(who).await?;
        let seen = async {
            self.seen("sum(trunkline_media_uploads_waiting)").await?;
            self.seen("sum(trunkline_media_recording_failing)").await
        };
        let seen = seen.await;
        std::fs::remove_file(&store)?;
        std::fs::rename(&aside, &store)?;
        seen
    }

    /// kill -9 while some talk: their calls change their media node.
    async fn media_node_dies(&mut self) -> Result<()> {
        let who = self.stage.talk(2, s(30)).await?;
        let victim = self.world.most("media", "trunkline_media_sessions").await?;
        self.world.node(&victim)?.kill()?;
        self.seen("sum(increase(trunkline_call_media_moves_total[15s]))").await?;
        self.world.start_nodes(&[victim]).await?;
        self.hang_up(who).await
    }

    /// SIGSTOP of an owner until others have all of its shards, then SIGCONT: it is refused what it still wanted.
    async fn owner_stops(&mut self) -> Result<()> {
        self.stage.desk.order(|orders| {
            orders.open = AGENTS;
            orders.answer_after = None;
        });
        self.stage.desk.until("agents are ready", s(30), &["ready"], AGENTS).await?;
        let who = self.stage.crowd.wait(AGENTS, 4.0, s(30)).await?;
        let victim = self.world.most("acd", "trunkline_acd_queue_depth").await?;
        self.world.node(&victim)?.program()?.signal("-STOP")?;
        // Calls come meanwhile.
        let more = self.stage.crowd.come(4, 1.0).await?;
        let others = format!("sum(trunkline_cluster_shards_held{{instance!=\"{victim}\"}}) == 4096");
        let taken = self.seen(&others).await;
        self.world.node(&victim)?.program()?.signal("-CONT")?;
        taken?;
        self.stage.desk.order(|orders| {
            orders.answer_after = Some(Duration::from_millis(200));
            orders.talk = Some(s(1));
        });
        self.seen("sum(increase(trunkline_cluster_leases_lost_total[15s]))").await?;
        self.stage.crowd.over(who, s(60)).await?;
        self.stage.crowd.over(more, s(60)).await?;
        self.world.settled(s(60)).await
    }

    /// Two of three members stand still.
    async fn etcd_is_away(&mut self) -> Result<()> {
        self.world.etcd.pause(2)?;
        let seen = self.seen("count(trunkline_cluster_etcd_connected == 0)").await;
        self.world.etcd.go_on()?;
        seen?;
        self.world.etcd.healthy(s(60)).await?;
        self.world.settled(s(60)).await
    }

    /// The database dies; who calls meanwhile is refused.
    async fn journal_is_away(&mut self) -> Result<()> {
        self.world.postgres.kill()?;
        let came = self.stage.crowd.come(4, 2.0).await?;
        let refused = self
            .seen("sum(increase(trunkline_sip_messages_total{method=\"INVITE\",direction=\"out\",class=\"5xx\"}[15s]))")
            .await;
        self.world.postgres.start_again(&self.world.network).await?;
        refused?;
        self.stage.crowd.over(came, s(60)).await?;
        self.world.settled(s(60)).await
    }
}
