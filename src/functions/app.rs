//! The state that all functions share.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use serving::running::Running;
use tokio::sync::SetOnce;

use crate::config::Config;
use crate::domain::problem::Problem;
use crate::domain::record::Holder;
use crate::door::admission::Admission;
use crate::door::caller::Callers;
use crate::door::rate::{Quota, Rate};
use crate::door::rate_key::RateKey;
use crate::door::token::Auth;
use crate::envelope::{HttpRequest, Response};
use crate::fulfillment::Fulfillment;
use crate::fulfillment::http::Backend;
use crate::fulfillment::pricing::{Pricing, PricingWork};
use crate::functions::callbacks::Callbacks;
use crate::functions::completion_times::{CompletionTimes, Estimate};
use crate::functions::holder;
use crate::functions::in_flight::InFlight;
use crate::functions::queue_wait::QueueWait;
use crate::functions::reply;
use crate::functions::wait_slots::WaitSlots;
use crate::functions::watchers::Watchers;
use crate::metrics::WaitFor;
use crate::outbound::service_bus::Queue;
use crate::store::StatusStore;

/// How long a customer's request waits while the store is being opened.
const OPENING: Duration = Duration::from_secs(2);

/// How long an answer of the store to a probe counts.
const PROBED: Duration = Duration::from_secs(1);

/// The state that all functions share.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The store, set once it is open; requests arrive before that.
    pub store: SetOnce<StatusStore>,
    /// The last answer of the store to a probe, and when it was asked for.
    probed: tokio::sync::Mutex<Option<(Instant, Option<Value>)>>,
    /// Why the store could not be opened at the last attempt.
    pub store_trouble: Mutex<Option<String>>,
    /// The queue in which copies of messages are scheduled; without it an invocation waits and keeps its message.
    pub queue: Option<Queue>,
    /// Running invocations that outlive their connection; a stop waits for them.
    pub running: Running,
    /// Status requests that wait for an order to change.
    pub watchers: Watchers,
    /// Slots for status requests that wait until their order is visible, where reads may lag.
    pub visibility_slots: WaitSlots,
    /// Set when the handler has been asked to stop.
    pub stopping: SetOnce<()>,
    /// How long orders wait for their first claim.
    pub queue_wait: QueueWait,
    /// The callbacks that tell of ends.
    pub callbacks: Callbacks,
    /// The ways to identify a caller.
    pub callers: Callers,
    /// How long orders take.
    pub completion_times: CompletionTimes,
    /// The rate limit.
    pub rate: Rate,
    /// The decision whether new orders are accepted.
    pub admission: Admission,
    /// The requests that may be recording an order now.
    pub in_flight: InFlight,
    /// The work on an order.
    pub fulfillment: Fulfillment,
    /// The contract, made when a client first asks for it.
    pub contract: OnceLock<String>,
    /// This process, as a lease names it.
    pub holder: Holder,
}

impl App {
    /// Makes everything but the store, which is opened while requests already arrive. Without work of its own the handler does the work
    /// that the settings name. `Err`: the setting that cannot be used.
    pub fn new(mut config: Config, own_work: Option<Fulfillment>) -> Result<Self, String> {
        let auth = config.auth.as_ref().map(Auth::new).transpose()?;
        Ok(Self {
            queue: config.storage.service_bus.as_ref().map(Queue::new).transpose()?,
            callbacks: Callbacks::new(config.callbacks.take())?,
            holder: holder::this_process(config.instance.clone()),
            callers: Callers { auth, easy_auth: config.easy_auth },
            fulfillment: match (own_work, &config.fulfillment) {
                (Some(work), _) => work.within(config.time_budget.longest_try),
                (None, Some(http)) => Fulfillment::new(Backend::new(http)?),
                (None, None) => Fulfillment::new(PricingWork { pricing: Pricing { tax_rate: config.tax_rate }, pause: config.work_delay }),
            },
            store: SetOnce::new(),
            probed: tokio::sync::Mutex::default(),
            store_trouble: Mutex::default(),
            watchers: Watchers::new(config.max_waiters()),
            // Half of the connections that are not reserved for waiting; the other half is left for work.
            visibility_slots: WaitSlots::new(((config.max_connections - config.max_waiters()) / 2).max(1), WaitFor::Visibility),
            stopping: SetOnce::new(),
            queue_wait: QueueWait::default(),
            completion_times: CompletionTimes::default(),
            rate: Rate::new(config.limits.rate, config.limits.rate_period),
            admission: Admission::new(&config.limits),
            in_flight: InFlight::default(),
            running: Running::default(),
            contract: OnceLock::new(),
            config,
        })
    }

    /// The store for a customer's request, which waits at most `OPENING`.
    pub async fn store_for_customer(&self) -> Option<&StatusStore> {
        tokio::time::timeout(OPENING, self.store.wait()).await.ok()
    }

    /// The store's figures, or why the store is not ready.
    pub async fn probe_store(&self) -> Result<Value, &'static str> {
        let store = self.store.get().ok_or("the store does not answer")?;
        store.answers().await.map_err(|_| "the store does not answer")?;
        store.takes_writes().await.map_err(|_| "the store takes no writes")?;
        Ok(store.figures())
    }

    /// The store's figures, if the store answered within the last second. Requests at the same time share one question.
    pub async fn probe_store_lately(&self) -> Option<Value> {
        let mut probed = self.probed.lock().await;
        if let Some((at, figures)) = &*probed
            && at.elapsed() < PROBED
        {
            return figures.clone();
        }
        // A probe that gets no answer tells its sender less than a 503.
        let figures = tokio::time::timeout(OPENING, self.probe_store()).await.ok().and_then(Result::ok);
        *probed = Some((Instant::now(), figures.clone()));
        figures
    }

    /// Adds the figures for operators that are not the store's.
    pub fn add_figures(&self, body: &mut Value) {
        body["admission"] = self.admission.figures();
        body["waiting"] = json!({ "forChange": self.watchers.waiting(), "forVisibility": self.visibility_slots.taken() });
    }

    /// Counts a request of this owner. `None`: there is no limit.
    pub async fn quota(&self, request: &HttpRequest<'_>, owner: &str) -> Option<Quota> {
        self.rate.take(RateKey::of(request, owner, &self.config.limits)).await
    }

    /// Answers a request of this owner unless the rate limit refuses it. Both answers carry the quota headers.
    pub async fn limited(
        &self,
        request: &HttpRequest<'_>,
        owner: &str,
        answer: impl Future<Output = Result<Response, Problem>>,
    ) -> Response {
        let quota = self.quota(request, owner).await;
        let answer = match quota.as_ref().and_then(Quota::refusal) {
            // These requests submit no order, so the problem has no `outcome`.
            Some(refusal) => Err(Problem { outcome: None, ..refusal }),
            None => answer.await,
        };
        let mut response = answer.unwrap_or_else(|refusal| reply::problem(&refusal));
        response.headers.extend(quota.iter().flat_map(Quota::headers));
        response
    }

    /// The estimated time to completion of an order that is submitted now.
    pub fn estimate(&self) -> Estimate {
        self.completion_times.estimate(self.fulfillment.estimate(), self.admission.queue_age())
    }
}
