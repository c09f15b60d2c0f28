//! Slots for requests that hold a connection while they wait, so that work keeps some.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::metrics::{METRICS, WaitFor};

/// A bounded number of slots, of which one caller gets at most half.
#[derive(Debug)]
pub struct WaitSlots {
    number: usize,
    wait_for: WaitFor,
    /// Slots taken, by caller.
    taken: Mutex<HashMap<[u8; 16], usize>>,
}

impl WaitSlots {
    /// This many slots, half of them for one caller, for requests that wait for this.
    pub fn new(number: usize, wait_for: WaitFor) -> Self {
        Self { number, wait_for, taken: Mutex::default() }
    }

    /// A slot, if one is left for this caller.
    pub fn take(&self, caller: [u8; 16]) -> Option<WaitSlot<'_>> {
        let mut taken = self.taken.lock();
        let own = taken.get(&caller).copied().unwrap_or_default();
        if taken.values().sum::<usize>() >= self.number || own >= self.number.div_ceil(2) {
            return None;
        }
        taken.insert(caller, own + 1);
        self.tell(&taken);
        Some(WaitSlot { slots: self, caller })
    }

    /// Counts those that wait for the metrics. Called under the lock, so that the last number is written last.
    fn tell(&self, taken: &HashMap<[u8; 16], usize>) {
        METRICS.waiters.set(self.wait_for, u32::try_from(taken.values().sum::<usize>()).unwrap_or(u32::MAX).into());
    }

    /// Slots taken by all callers.
    pub fn taken(&self) -> usize {
        self.taken.lock().values().sum()
    }
}

/// A slot; given back when it is dropped.
#[derive(Debug)]
pub struct WaitSlot<'s> {
    slots: &'s WaitSlots,
    caller: [u8; 16],
}

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
        self.slots.tell(&taken);
    }
}
