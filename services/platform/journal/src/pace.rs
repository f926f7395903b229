//! When a writer starts its next commit.
//!
//! While a commit is under way, arriving appends gather; that alone batches well on a slow store. On a fast one each commit
//! would carry one append, so a busy writer starts commits at least `spacing` apart. An idle one commits at once.

use std::time::Duration;

use tokio::time::Instant;

/// Busy = more than this many appends in the last [`BUSY_WINDOW`] (exponentially weighted); the set-up of one call is less.
const BUSY_APPENDS: f64 = 8.0;
const BUSY_WINDOW: Duration = Duration::from_millis(50);

/// The rhythm of one writer.
#[derive(Debug)]
pub(crate) struct Pace {
    spacing: Duration,
    load: f64,
    last: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(spacing: Duration) -> Self {
        Self { spacing, load: 0.0, last: None }
    }

    /// Until when more appends may gather before the next commit; `None` = commit at once.
    pub(crate) fn wait(&self) -> Option<Instant> {
        let last = self.last.filter(|_| self.load > BUSY_APPENDS)?;
        (last.elapsed() < self.spacing).then(|| last + self.spacing)
    }

    /// A commit of so many appends starts now.
    pub(crate) fn started(&mut self, appends: usize) {
        let now = Instant::now();
        let windows = self
            .last
            .map_or(f64::MAX, |last| now.duration_since(last).as_secs_f64() / BUSY_WINDOW.as_secs_f64());
        self.load = self.load * 0.5_f64.powf(windows) + appends as f64;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_idle_writer_commits_at_once_and_a_busy_one_waits() {
        let spacing = Duration::from_millis(5);
        let mut pace = Pace::new(spacing);
        assert_eq!(pace.wait(), None);
        pace.started(3);
        assert_eq!(pace.wait(), None, "three appends are one call's set-up");
        pace.started(20);
        assert_eq!(pace.wait(), Some(Instant::now() + spacing));
        tokio::time::advance(spacing).await;
        assert_eq!(pace.wait(), None, "the spacing is over");
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.started(1);
        assert_eq!(pace.wait(), None, "the load is forgotten");
    }
}
