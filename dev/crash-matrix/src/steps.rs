//! Steps at which a process is killed, and the kills needed to reach them.

use serving::failpoints::Victim;

/// One failpoint in handler or host.
#[derive(Debug)]
pub(super) struct Step {
    /// Name of the failpoint; [`RANDOM`] has no failpoint.
    pub(super) name: &'static str,
    /// Earlier kills, which bring about what the step needs.
    pub(super) fed_by: &'static [(&'static str, Victim)],
    /// Deliveries before a message is dead-lettered.
    pub(super) max_delivery_count: u32,
    /// Share of orders and kills.
    pub(super) weight: usize,
    /// Most kills.
    pub(super) most_kills: usize,
    /// Of this many orders, one is given up at the first failure, so that only the sweeper can save it.
    pub(super) giving_up: usize,
    /// Ends are told to a receiver, which is judged too.
    pub(super) tells: bool,
}

/// Step that kills at random moments, without a failpoint.
pub(super) const RANDOM: &str = "random";

const fn step(name: &'static str) -> Step {
    Step { name, fed_by: &[], max_delivery_count: 10, weight: 1, most_kills: usize::MAX, giving_up: 2, tells: false }
}

/// A step of the sweeper: its orders were recorded, their messages never sent, and their clients gave up. Each message that a killed
/// sweeper loses doubles the pause until the next one: after three, the pause is four seconds and a sweep, with a retry more than the
/// bound.
const fn sweep(name: &'static str) -> Step {
    Step { fed_by: &[("after-record", Victim::Handler)], most_kills: 2, giving_up: 1, ..step(name) }
}

/// Steps in the sequence in which an order passes them.
pub(super) const STEPS: [Step; 23] = [
    // In the handler: OrderIngress.
    step("before-record"),
    step("after-record"),
    step("before-answer"),
    // In the host: the outputs of an invocation.
    step("before-send"),
    step("after-send"),
    // In the handler: OrderProcessor.
    step("before-claim"),
    step("after-claim"),
    step("after-renewal"),
    step("mid-work"),
    step("before-finish"),
    step("after-finish"),
    // After the end, before its callback; and after the callback, before its answer is recorded.
    Step { tells: true, ..step("before-callback") },
    Step { tells: true, ..step("after-callback") },
    step("before-retry-record"),
    step("after-retry-record"),
    step("after-schedule"),
    step("before-settle"),
    // In the host: settling the message.
    step("before-complete"),
    step("after-complete"),
    // In the handler: OrderSweeper and OrderDeadLetter.
    sweep("mid-sweep-after-record"),
    sweep("mid-sweep-before-answer"),
    // One delivery only: every message in hand when the handler dies is dead-lettered, messages of unclaimed orders too.
    Step { fed_by: &[("before-claim", Victim::Handler)], max_delivery_count: 1, ..step("mid-dead-letter-after-record") },
    Step { weight: 4, giving_up: 4, ..step(RANDOM) },
];

/// Random numbers that the seed repeats.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // The first numbers of small seeds are alike.
        random.below(1);
        random.below(1);
        random
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
