//! Judgement of a cell: counts lost, doubled and stuck orders, from records, calls and kills.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use crate::backend::{Call, Told};
use crate::clients::{Seen, Submitted};
use waybill::domain::record::MAX_HISTORY;
use waybill::domain::timestamp::Timestamp;

/// Findings of one cell that are printed.
const TOLD: usize = 8;

/// Facts known when a cell has ended. Moments are milliseconds since the Unix epoch.
pub(super) struct Evidence {
    /// Time after the last kill by which an order must have ended; otherwise it is stuck.
    pub(super) bound: Duration,
    /// Difference allowed between the store's clock and this machine's.
    pub(super) skew: Duration,
    pub(super) orders: Vec<(Submitted, Seen)>,
    pub(super) calls: Vec<Call>,
    pub(super) effects: HashMap<String, usize>,
    /// Callbacks, where ends are told.
    pub(super) told: Option<Vec<Told>>,
    /// Moments of the kills at the step.
    pub(super) kills: Vec<i64>,
    /// Moments of earlier kills, which bring about what the step needs.
    pub(super) feeding_kills: Vec<i64>,
    pub(super) host_starts: usize,
    /// Failures that concern no single order.
    pub(super) problems: Vec<String>,
}

/// A row of the table.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) kills: usize,
    pub(super) feeding_kills: usize,
    pub(super) host_starts: usize,
    /// Orders that are recorded or should be.
    pub(super) orders: usize,
    pub(super) given_up: usize,
    pub(super) never_recorded: usize,
    pub(super) lost: usize,
    pub(super) doubled: usize,
    pub(super) stuck: usize,
    /// Orders, of [`Judgement::orders`], whose history was cut, so that their claims cannot be counted.
    pub(super) unjudged: usize,
    pub(super) slowest: Duration,
    /// Number of orders by their number of calls.
    pub(super) calls: BTreeMap<usize, usize>,
    /// Failures that are neither lost, doubled nor stuck orders.
    pub(super) problems: usize,
    /// Findings as text.
    pub(super) findings: Vec<String>,
}

impl Judgement {
    /// Judgement of a cell that did not end.
    pub(super) fn broken(problem: String) -> Self {
        Self { problems: 1, findings: vec![problem], ..Self::default() }
    }

    /// Whether the cell found no failure and reached its step: a step that was never reached proves nothing.
    pub(super) fn is_good(&self) -> bool {
        self.kills > 0 && [self.lost, self.doubled, self.stuck, self.problems] == [0; 4]
    }

    /// Adds the counts of another cell, without its findings.
    pub(super) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.feeding_kills += other.feeding_kills;
        self.host_starts += other.host_starts;
        self.orders += other.orders;
        self.given_up += other.given_up;
        self.never_recorded += other.never_recorded;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.stuck += other.stuck;
        self.unjudged += other.unjudged;
        self.problems += other.problems;
        self.slowest = self.slowest.max(other.slowest);
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < TOLD {
            self.findings.push(finding);
        }
    }
}

/// Judges every order.
pub(super) fn judge(evidence: &Evidence) -> Judgement {
    let mut judgement = Judgement {
        kills: evidence.kills.len(),
        feeding_kills: evidence.feeding_kills.len(),
        host_starts: evidence.host_starts,
        problems: evidence.problems.len(),
        ..Judgement::default()
    };
    evidence.problems.iter().for_each(|problem| judgement.find(problem.clone()));
    if evidence.kills.is_empty() {
        judgement.find("the step was never reached".into());
    }
    let kills: Vec<i64> = evidence.kills.iter().chain(&evidence.feeding_kills).copied().collect();
    let mut calls: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in &evidence.calls {
        calls.entry(call.key.split('/').next().unwrap_or_default()).or_default().push(call);
    }
    for (submitted, seen) in &evidence.orders {
        let id = submitted.tracking_id.to_string();
        let calls = calls.remove(id.as_str()).unwrap_or_default();
        judgement.given_up += usize::from(submitted.accepted.is_none());
        match seen {
            Seen::Absent if submitted.accepted.is_none() => {
                judgement.never_recorded += 1;
                continue;
            }
            Seen::Ended(status) => ended(&mut judgement, evidence, &kills, submitted, status, &calls),
            Seen::Open(status) => {
                judgement.stuck += 1;
                judgement.lost += usize::from(submitted.accepted.is_some());
                judgement.find(format!("stuck, it never ended: {status}"));
            }
            Seen::Absent | Seen::Silence => {
                judgement.lost += 1;
                judgement.find(format!("lost, {seen:?}: {id}"));
            }
        }
        judgement.orders += 1;
        *judgement.calls.entry(calls.len()).or_default() += 1;
    }
    if !calls.is_empty() {
        judgement.problems += 1;
        judgement.find(format!("calls for orders that no client sent: {:?}", calls.keys()));
    }
    judgement
}

fn ended(judgement: &mut Judgement, evidence: &Evidence, kills: &[i64], submitted: &Submitted, status: &Value, calls: &[&Call]) {
    let history: Vec<&str> = status["history"].as_array().into_iter().flatten().filter_map(|entry| entry["event"].as_str()).collect();
    let (Some(from), Some(until)) = (moment(&status["submittedAt"]), moment(&status["completedAt"])) else {
        judgement.problems += 1;
        return judgement.find(format!("an ended order without submittedAt or completedAt: {status}"));
    };
    let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);

    // A recovery counts from the submission, the 202 or the last kill, whichever came last.
    let since = kills.iter().copied().chain([from]).chain(submitted.accepted).max().unwrap_or(from);
    if until - since > milliseconds(evidence.bound) {
        judgement.stuck += 1;
        judgement.find(format!("stuck, {} ms until it ended: {status}", until - since));
    }
    let recovery = kills.iter().filter(|kill| (from..until).contains(kill)).map(|kill| until - kill).max().unwrap_or(0);
    let recovery = Duration::from_millis(u64::try_from(recovery).unwrap_or(0));
    if recovery > judgement.slowest.max(evidence.bound) {
        // The order is not stuck: a later kill hit it, or its client sent it again late.
        let accepted = submitted.accepted.map(|accepted| accepted - from);
        judgement.find(format!("slow, {recovery:?} from a kill to its end; its 202 came after {accepted:?} ms: {status}"));
    }
    judgement.slowest = judgement.slowest.max(recovery);

    let ends = history.iter().filter(|event| matches!(**event, "completed" | "failed" | "cancelled")).count();
    let claims = history.iter().filter(|event| matches!(**event, "claimed" | "interrupted")).count();
    let whole = history.len() < MAX_HISTORY;
    judgement.unjudged += usize::from(!whole);
    let lives: HashSet<&str> = calls.iter().map(|call| call.key.as_str()).collect();
    let effect = calls.first().and_then(|call| evidence.effects.get(&call.key)).copied();
    let doubled = if ends != 1 {
        Some(format!("{ends} ends"))
    } else if lives.len() > 1 {
        Some(format!("{} keys", lives.len()))
    } else if whole && calls.len() > claims {
        Some(format!("{} calls, {claims} claims", calls.len()))
    } else if let Some(late) = calls.iter().find(|call| call.at > until + milliseconds(evidence.skew)) {
        Some(format!("a call {} ms after its end", late.at - until))
    } else if status["status"] == "completed" && status["result"]["effect"].as_u64() != effect.map(|effect| effect as u64) {
        Some(format!("a result that is not the backend's ({effect:?})"))
    } else {
        None
    };
    if let Some(doubled) = doubled {
        judgement.doubled += 1;
        let moments: Vec<i64> = calls.iter().map(|call| call.at - from).collect();
        judgement.find(format!("doubled, {doubled}; calls at {moments:?} ms: {status}"));
    }
    if let Some(told) = &evidence.told {
        let told: Vec<&Told> = told.iter().filter(|told| status["trackingId"] == told.tracking_id).collect();
        let ids: HashSet<&str> = told.iter().map(|told| told.id.as_str()).collect();
        // At least once, under one id, and never before the end.
        if told.is_empty() {
            judgement.lost += 1;
            judgement.find(format!("lost, its end was never told: {status}"));
        } else if ids.len() > 1 || told.iter().any(|told| told.at + milliseconds(evidence.skew) < until) {
            judgement.doubled += 1;
            judgement.find(format!("doubled, its end was told under {} ids, or before it came: {status}", ids.len()));
        }
    }
    if status["status"] != "completed" {
        judgement.problems += 1;
        judgement.find(format!("the order did not end as completed: {status}"));
    }
}

fn moment(shown: &Value) -> Option<i64> {
    serde_json::from_value::<Timestamp>(shown.clone()).ok().map(Timestamp::as_milliseconds)
}
