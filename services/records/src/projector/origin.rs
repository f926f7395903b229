//! Whether the database is a fold of the journal that is there now. After a restore it may not be: the file outlived the
//! cluster, and knows calls that the restored journal does not.

use trunkline_journal::Journal;

use crate::{
    metrics::RecordsMetrics,
    store::{Progress, Store, StoreError, mark},
};

/// Goes on from what the database has, or throws it away when it is of another journal.
pub(super) async fn settle(
    journal: &dyn Journal,
    store: &Store,
    metrics: &RecordsMetrics,
) -> Result<Progress, StoreError> {
    let identity = journal.identity().await?;
    let progress = store.progress().await?;
    if let Some(why) = foreign(journal, identity, &progress).await? {
        let position = progress.position;
        tracing::warn!(why, position, "the records are thrown away and folded anew from the journal");
        metrics.rebuilds.inc();
        store.begin_anew(identity).await?;
        return store.progress().await;
    }
    if progress.journal != identity {
        store.adopt(identity).await?;
    }
    Ok(progress)
}

/// Why the database is no fold of this journal. The identity alone does not tell everything: a journal may have been put
/// back without being told so, and a file may be of before identities.
async fn foreign(
    journal: &dyn Journal,
    identity: u64,
    progress: &Progress,
) -> Result<Option<&'static str>, StoreError> {
    let Some(before) = progress.position.checked_sub(1) else { return Ok(None) };
    if progress.journal != 0 && progress.journal != identity {
        return Ok(Some("they are of another journal, or of this one before it was restored"));
    }
    let event = journal.tail(before, 1).await?.into_iter().next();
    let Some(event) = event.filter(|event| event.position == progress.position) else {
        return Ok(Some("the journal has no event where they ended"));
    };
    let mark = mark(&event);
    let known = progress.mark.split(' ').next() == mark.split(' ').next();
    Ok((known && progress.mark != mark).then_some("the journal has another event where they ended"))
}
