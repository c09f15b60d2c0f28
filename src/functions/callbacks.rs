//! Callbacks of this process: where they go, and the orders that wait to be told.
//!
//! An end hands its order over at once, to a queue that is never waited for; the sweeper's run has the orders looked for whose callback is
//! due: those that found the queue full, whose try failed, or whose process died.

mod receivers;
pub mod send;

use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::{Notify, mpsc};

use crate::config;
use crate::domain::record::{NoticeState, Record};
use crate::domain::tracking::TrackingId;
use crate::functions::callbacks::receivers::Receivers;
use crate::outbound::callback::Sender;

/// Orders that wait to be told; more are left to the sweeper.
const WAITING: usize = 1_024;

/// The callbacks of this process.
pub struct Callbacks {
    sender: Option<(Sender, config::callback::Callbacks)>,
    ended: mpsc::Sender<TrackingId>,
    waiting: Mutex<Option<mpsc::Receiver<TrackingId>>>,
    /// Told by a run of the sweeper.
    due: Notify,
    receivers: Receivers,
}

impl Callbacks {
    /// Prepares everything; nothing is sent before [`send::keep`].
    pub fn new(config: Option<config::callback::Callbacks>) -> Result<Self, String> {
        let sender = config.map(|config| Sender::new(&config.secrets).map(|sender| (sender, config))).transpose()?;
        let (ended, waiting) = mpsc::channel(WAITING);
        Ok(Self { sender, ended, waiting: Mutex::new(Some(waiting)), due: Notify::new(), receivers: Receivers::default() })
    }

    /// The URL that an order may name, or what is wrong with it.
    pub fn own_url(&self, text: &str) -> Result<Url, &'static str> {
        self.sender.as_ref().map_or(Err("no callbacks are sent here"), |(_, config)| config.own_url(text))
    }

    /// An end is recorded: its callback is sent soon.
    pub fn hand_over(&self, record: &Record) {
        if self.sender.is_some() && record.notice().is_some_and(|notice| notice.state == NoticeState::Pending) {
            // A full queue leaves it to the sweeper.
            let _ = self.ended.try_send(record.tracking_id);
        }
    }

    /// Has the orders looked for whose callback is due. Without a setting for callbacks nothing is looked for.
    pub fn look_for_due(&self) {
        if self.sender.is_some() {
            self.due.notify_one();
        }
    }

    /// Where the callback of this order goes. Judged anew at every try: the settings may have changed since.
    fn target(&self, record: &Record) -> Result<(&Sender, Url), &'static str> {
        let (sender, config) = self.sender.as_ref().ok_or("no_target")?;
        let url = match record.callback.as_ref().and_then(|callback| callback.url.as_deref()) {
            Some(own) => config.own_url(own).map_err(|_| "target_not_allowed")?,
            None => config.url.clone().ok_or("no_target")?,
        };
        Ok((sender, url))
    }
}
