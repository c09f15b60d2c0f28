//! Queue triggers: receives messages under a lock, invokes, then completes or abandons them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serving::failpoint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{error, warn};
use uuid::Uuid;

use crate::app::function::{self, Trigger};
use crate::app::host_json::ServiceBus;
use crate::dispatch::{Callable, Dispatcher, Failed, Invocation};
use crate::service_bus::broker::{Properties, Received, Settled, after, moment, now};
use crate::wire::invocation::{self, Client, Message, MessageForm};

/// Pause after a failed read of the queue.
const BROKER_PAUSE: Duration = Duration::from_secs(1);
/// Most messages received at once, even if `maxConcurrentCalls` allows more.
const MAX_RECEIVE: u32 = 256;
/// Life of a message in a queue without a default (Service Bus: 14 days), for the metadata only.
const DEFAULT_LIFE: Duration = Duration::from_hours(336);
/// Host name of the local namespace, as under the Service Bus emulator.
const NAMESPACE: &str = "localhost";

/// One function's queue trigger.
pub(crate) struct Listener {
    dispatcher: Arc<Dispatcher>,
    function: Arc<Callable>,
    trigger: QueueTrigger,
    options: ServiceBus,
    client: String,
}

#[derive(Debug, Clone)]
struct QueueTrigger {
    binding: String,
    queue: String,
    many: bool,
    form: MessageForm,
    auto_complete: bool,
}

impl Listener {
    /// Listener of a function, if the function has a queue trigger.
    pub(crate) fn of(dispatcher: Arc<Dispatcher>, function: Arc<Callable>, options: ServiceBus) -> Option<Self> {
        let Trigger::Queue { name, queue, cardinality_many, data_type, auto_complete_messages, .. } = &function.trigger else {
            return None;
        };
        let trigger = QueueTrigger {
            binding: name.clone(),
            queue: queue.clone(),
            many: *cardinality_many,
            form: form_of(*data_type),
            auto_complete: auto_complete_messages.unwrap_or(options.auto_complete_messages),
        };
        Some(Self { dispatcher, function, trigger, options, client: format!("{NAMESPACE}-{}", Uuid::new_v4()) })
    }

    /// Receives messages until asked to stop. Running invocations continue.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let this = Arc::new(self);
        // maxConcurrentCalls does not limit batches: the extension runs one batch at a time for each receiver.
        let (most, batch) =
            if this.trigger.many { (1, this.options.max_message_batch_size) } else { (this.options.max_concurrent_calls, 1) };
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        loop {
            let received = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                received = this.receive(&permits, batch) => received,
            };
            match received {
                Ok((messages, mut permit)) if this.trigger.many => {
                    let single = permit.split(1);
                    let this = Arc::clone(&this);
                    tokio::spawn(async move {
                        this.handle(messages).await;
                        drop(single);
                    });
                }
                Ok((messages, mut permit)) => {
                    for message in messages {
                        let single = permit.split(1);
                        let this = Arc::clone(&this);
                        tokio::spawn(async move {
                            this.handle(vec![message]).await;
                            drop(single);
                        });
                    }
                }
                Err(()) => tokio::time::sleep(BROKER_PAUSE).await,
            }
        }
    }

    /// Messages that may run now. Receives none while the handler cannot be called: every delivery would fail at once, and ten failed
    /// deliveries make a dead letter.
    async fn receive(&self, permits: &Arc<Semaphore>, batch: usize) -> Result<(Vec<Received>, OwnedSemaphorePermit), ()> {
        if self.dispatcher.handler.generation().is_none() && !self.dispatcher.handler.wait_until_ready().await {
            return Err(());
        }
        let mut permit = Arc::clone(permits).acquire_owned().await.map_err(drop)?;
        let more = u32::try_from(permits.available_permits()).unwrap_or(u32::MAX).min(MAX_RECEIVE);
        // No other task takes from the permits.
        if let Ok(more) = Arc::clone(permits).try_acquire_many_owned(more) {
            permit.merge(more);
        }
        let most = permit.num_permits().saturating_mul(batch);
        match self.dispatcher.broker.receive(&self.trigger.queue, most).await {
            Ok(messages) => Ok((messages, permit)),
            Err(error) => {
                error!(queue.name = self.trigger.queue, %error, "the queue cannot be read");
                Err(())
            }
        }
    }

    async fn handle(&self, messages: Vec<Received>) {
        let deliveries = messages.iter().map(|message| message.delivery_count).max();
        let invocation = Invocation::of_delivery(deliveries);
        let ended = match self.envelope(&messages, &invocation) {
            Ok(envelope) => self.invoke_under_lock(&messages, &invocation, envelope).await,
            Err(reason) => {
                error!(function.name = self.function.name, "{} failed: {reason}", self.function.name);
                Err(Failed(None))
            }
        };
        for message in &messages {
            failpoint!("before-complete" if ended.is_ok());
            let settled = match ended {
                Ok(()) if !self.trigger.auto_complete => continue,
                Ok(()) => self.dispatcher.broker.complete(message).await,
                Err(Failed(_)) => self.dispatcher.broker.abandon(&self.trigger.queue, message).await,
            };
            failpoint!("after-complete" if ended.is_ok());
            match settled {
                Ok(Settled::Done) => {}
                Ok(Settled::LockLost) => warn!(
                    queue.name = self.trigger.queue,
                    message.id = message.properties.message_id,
                    "the lock of a message ran out before its invocation ended; it is delivered again"
                ),
                Err(error) => error!(queue.name = self.trigger.queue, %error, "a message could not be settled; it is delivered again"),
            }
        }
    }

    /// Renews the locks while the invocation runs, at most for `maxAutoLockRenewalDuration`.
    async fn invoke_under_lock(&self, messages: &[Received], invocation: &Invocation, envelope: Vec<u8>) -> Result<(), Failed> {
        let started = Instant::now();
        let period = self.dispatcher.broker.lock_duration() / 2;
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let mut call = std::pin::pin!(self.dispatcher.invoke(&self.function, invocation, envelope));
        loop {
            tokio::select! {
                biased;
                ended = &mut call => return ended.map(drop),
                _ = renewal.tick() => {
                    let over = self.options.max_auto_lock_renewal_duration.is_some_and(|most| started.elapsed() > most);
                    if over || self.trigger.many {
                        continue;
                    }
                    for message in messages {
                        if let Err(error) = self.dispatcher.broker.renew(message).await {
                            warn!(queue.name = self.trigger.queue, %error, "a lock could not be renewed");
                        }
                    }
                }
            }
        }
    }

    fn envelope(&self, messages: &[Received], invocation: &Invocation) -> Result<Vec<u8>, String> {
        let sys = invocation.sys(&self.function.name);
        let client = Client { fully_qualified_namespace: NAMESPACE, identifier: &self.client };
        let binding = &self.trigger.binding;
        if let ([message], false) = (messages, self.trigger.many) {
            return Ok(invocation::message(binding, &view(message), self.trigger.form, &client, &sys));
        }
        let views: Vec<Message<'_>> = messages.iter().map(view).collect();
        invocation::messages(binding, &views, self.trigger.form, &client, &sys)
    }
}

/// The envelope of a message that was never in a queue: a manual run through `/admin/functions/{name}`.
pub(crate) fn manual_envelope(function: &Callable, input: &str, invocation: &Invocation) -> Option<Vec<u8>> {
    let Trigger::Queue { name, data_type, .. } = &function.trigger else { return None };
    let now = moment(now());
    let received = Received {
        sequence_number: 0,
        lock_token: Uuid::nil(),
        delivery_count: 1,
        enqueued_at: now,
        expires_at: None,
        body: input.as_bytes().to_vec(),
        properties: Properties::default(),
    };
    let client = Client { fully_qualified_namespace: NAMESPACE, identifier: NAMESPACE };
    Some(invocation::message(name, &view(&received), form_of(*data_type), &client, &invocation.sys(&function.name)))
}

fn view(received: &Received) -> Message<'_> {
    let properties = &received.properties;
    let expires_at = received.expires_at.unwrap_or_else(|| after(received.enqueued_at, DEFAULT_LIFE));
    Message {
        body: &received.body,
        message_id: &properties.message_id,
        content_type: properties.content_type.as_deref(),
        delivery_count: received.delivery_count,
        dead_letter_source: properties.dead_letter_source.as_deref(),
        lock_token: received.lock_token,
        enqueued_at: received.enqueued_at,
        expires_at,
        sequence_number: u64::try_from(received.sequence_number).unwrap_or(0),
        correlation_id: properties.correlation_id.as_deref(),
        subject: properties.subject.as_deref(),
        reply_to: properties.reply_to.as_deref(),
        to: properties.to.as_deref(),
        session_id: None,
        reply_to_session_id: None,
        partition_key: None,
        transaction_partition_key: None,
        application_properties: &properties.application_properties,
    }
}

/// Form of a message for a binding with this `dataType`.
fn form_of(data_type: Option<function::DataType>) -> MessageForm {
    match data_type {
        None => MessageForm::Unset,
        Some(function::DataType::String) => MessageForm::String,
        Some(function::DataType::Binary | function::DataType::Stream) => MessageForm::Binary,
    }
}
