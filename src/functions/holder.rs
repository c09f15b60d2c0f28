//! The name of this process in leases, and whether the holder of a lease is gone.

use serving::process::{Started, ThisProcess, started};

use crate::domain::record::Holder;

/// The name of this process in leases. `instance` is the platform's name for the machine, if the platform gave one.
pub fn this_process(instance: Option<String>) -> Holder {
    let ThisProcess { host, boot, process, started } = ThisProcess::read();
    Holder { instance: instance.unwrap_or(host), boot, process, started }
}

/// Whether `holder` is known to be gone: it has the same instance and boot as `this`, and its process does not exist any more. A
/// holder elsewhere is not known to be gone; its lease is waited out.
pub fn is_gone(holder: &Holder, this: &Holder) -> bool {
    let visible = holder.boot.is_some() && holder.boot == this.boot && holder.instance == this.instance;
    let own = holder.process == this.process && holder.started == this.started;
    visible
        && !own
        && match started(holder.process) {
            Started::At(started) => started != holder.started,
            Started::Gone => true,
            Started::Unknown => false,
        }
}
