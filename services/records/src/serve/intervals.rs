use std::collections::BTreeMap;

use tonic::Status;
use trunkline_proto::records::v1::{GetIntervalsRequest, GetIntervalsResponse, Interval};
use trunkline_rpc::ErrorKind;

use super::{Service, failed, live};
use crate::{QueueName, fold::Counters, projector::INTERVAL_US};

const INTERVALS_MOST: i64 = 10_000;

/// Stored intervals of five minutes, summed to the length asked for.
pub(super) async fn get(
    service: &Service,
    wanted: GetIntervalsRequest,
) -> Result<GetIntervalsResponse, Status> {
    let tenant = live::tenant(&wanted.tenant)?;
    let seconds = if wanted.interval_s == 0 { 900 } else { wanted.interval_s };
    let length_us = i64::from(seconds) * 1_000_000;
    if !(300..=86_400).contains(&seconds) || length_us % INTERVAL_US != 0 {
        return Err(ErrorKind::Invalid.status("interval_s: use a multiple of 300 from 300 to 86400"));
    }
    let span = wanted.to_us.saturating_sub(wanted.from_us);
    if span <= 0 || span / length_us > INTERVALS_MOST {
        return Err(ErrorKind::Invalid
            .status("from, to: the end must follow the beginning, at most 10000 intervals later"));
    }
    let queues = service.directory.queues(&tenant);
    let queue = queues.iter().find(|q| q.id.as_str() == wanted.queue_id);
    let queue: &QueueName =
        queue.ok_or_else(|| ErrorKind::NotFound.status("queue: there is no such queue"))?;
    let from = wanted.from_us.div_euclid(length_us) * length_us;
    let stored = service
        .store
        .intervals(tenant.as_str(), queue.id.as_str(), from, wanted.to_us)
        .await
        .map_err(failed)?;
    let mut sums: BTreeMap<i64, Counters> = BTreeMap::new();
    for ((_, _, start), counters) in stored {
        sums.entry(start.div_euclid(length_us) * length_us).or_default().add(&counters);
    }
    let intervals = sums
        .into_iter()
        .map(|(start_us, counters)| Interval { start_us, numbers: Some(live::numbers(queue, &counters)) })
        .collect();
    Ok(GetIntervalsResponse { intervals })
}
