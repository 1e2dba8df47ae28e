//! What must hold, by name.

/// An invariant of the protocol. The numbers are those of the design, and of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// Desired state at a Commit is the model's for the versions that the server reached.
    I1,
    /// Every reference resolves.
    I2,
    /// An agent's vector never goes back unless it accepts a rollback.
    I3,
    /// Two servers at the same versions have the same digests.
    I4,
    /// The agent's digests, the server's and those of the definition are the same.
    I5,
    /// A frame has no effect without its Commit.
    I6,
    /// Nothing goes but by a drop, a delete or a Replace of a Commit.
    I7,
    /// When all is quiet every agent is at the newest state and has acknowledged it.
    I8,
    /// What a connection pins is bounded: frames handed out at once, and history.
    I9,
    /// No agent waits for ever.
    I10,
    /// An acknowledged publication is the one that the kernel holds.
    I11,
    /// An agent gets no other node's private topic.
    I12,
}

impl Invariant {
    /// The promise, for a person who reads a trace.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Self::I1 => "desired state at a Commit is that of versions which the server reached",
            Self::I2 => "at each Commit all references resolve",
            Self::I3 => "a vector never goes back without accept_rollback",
            Self::I4 => "servers at the same versions have the same digests",
            Self::I5 => "the agent's digests are the server's and the definition's",
            Self::I6 => "a frame has no effect without its Commit",
            Self::I7 => "nothing goes but by a drop, a delete or a Replace",
            Self::I8 => "in quiet every agent is at the newest state, and acknowledged it",
            Self::I9 => "what a connection and the history hold is bounded",
            Self::I10 => "no agent waits for ever",
            Self::I11 => "an acknowledged publication is what the kernel holds",
            Self::I12 => "no agent gets another node's private topics",
        }
    }
}

/// An invariant that does not hold, and what was seen.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) seen: String,
}

pub(crate) fn violated<T>(invariant: Invariant, seen: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { invariant, seen: seen.into() })
}
