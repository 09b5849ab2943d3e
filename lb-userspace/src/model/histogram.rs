//! How often durations were in which class.

/// Upper bounds of the classes in microseconds, inclusive; one class more is for what is longer.
pub const BOUNDS_US: [u64; 9] =
    [1_000, 5_000, 25_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];

/// What was counted so far, by duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimingTotals {
    /// Waiting for a server with room.
    pub queue: Histogram,
    /// Connecting to a server.
    pub connect: Histogram,
    /// From sending requests to the headers of responses.
    pub response: Histogram,
    /// All of it.
    pub total: Histogram,
}

/// How often a duration was in which class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// In the order of [`BOUNDS_US`]; the last is of what is longer.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}
