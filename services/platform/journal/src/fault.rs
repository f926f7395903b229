/// A failure that a test asks for.
#[cfg_attr(not(feature = "contract"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store refuses the next transaction; nothing is written.
    Refuse,
    /// The connection is lost just before the next commit, and its outcome cannot be found out.
    LoseBeforeCommit,
    /// The connection is lost just after the next commit, and its outcome cannot be found out.
    LoseAfterCommit,
}
