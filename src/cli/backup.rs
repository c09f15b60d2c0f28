//! `waybill backup` and `waybill accept-loss`: the databases of a data directory, copied while they are in use, or started without a
//! log that was lost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use group_commit::database::accept_loss;
use group_commit::{backup, directory};

use crate::cli;
use crate::config::{Records, Storage};

/// The databases of a data directory, in the order in which they are copied. An order that is accepted between the two copies has a
/// record and no message, which the sweeper sends again; in the other order it would have a message and no record.
const DATABASES: [&str; 2] = ["queue.db", "records.db"];

/// Where the databases are.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The app's folder, whose local.settings.json counts below the environment.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The data directory, whatever is configured.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// The options of `waybill backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// A new directory for the copies.
    #[arg(value_name = "DIR")]
    target: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Copies the databases of a data directory, which may be in use, into a new directory. The directory is there with all copies, or not
/// at all.
pub(super) fn run(options: &Options, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let data = options.place.data(environment)?;
    if !data.join("records.db").exists() {
        return Err(vec![format!("there are no records in {}: pass --data", data.display())]);
    }
    let target = std::path::absolute(&options.target).map_err(|error| vec![error.to_string()])?;
    let failed = |path: &Path, error: &io::Error| vec![format!("cannot write {}: {error}", path.display())];
    if fs::read_dir(&target).map_or(target.exists(), |mut entries| entries.next().is_some()) {
        return Err(vec![format!("{} is there already: nothing is written over it, name a new directory", target.display())]);
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = parent.join(name);
    directory::create(parent).map_err(|error| failed(parent, &error))?;
    directory::create_new(&partial).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            vec![format!("{} is there already: another backup is being made, or was broken off; remove it then", partial.display())]
        }
        _ => failed(&partial, &error),
    })?;
    let copied = copy(&data, &partial).and_then(|copied| {
        let sync = |directory: &Path| File::open(directory).and_then(|directory| directory.sync_all());
        let moved = sync(&partial).and_then(|()| fs::rename(&partial, &target)).and_then(|()| sync(parent));
        moved.map(|()| copied).map_err(|error| failed(&target, &error))
    });
    if copied.is_err() {
        // Half a backup is none.
        let _ = fs::remove_dir_all(&partial);
    }
    for (name, bytes) in copied? {
        println!("{}  {bytes} bytes", target.join(name).display());
    }
    Ok(())
}

fn copy(data: &Path, target: &Path) -> Result<Vec<(&'static str, u64)>, Vec<String>> {
    let there = DATABASES.into_iter().filter(|name| data.join(name).exists());
    let copy = |name| {
        let copy = target.join(name);
        backup::copy(&data.join(name), &copy).map_err(|error| vec![error.to_string()])?;
        Ok((name, fs::metadata(copy).map_or(0, |metadata| metadata.len())))
    };
    there.map(copy).collect()
}

/// Lets the next start go on without a log that was lost.
pub(super) fn accept(place: &Place, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let data = place.data(environment)?;
    for name in DATABASES.into_iter().filter(|name| data.join(name).exists()) {
        match accept_loss(&data.join(name)).map_err(|error| vec![error.to_string()])? {
            Some(since) => println!("{name}: accepted; what was written after {since} may be missing"),
            None => println!("{name}: no log was lost"),
        }
    }
    Ok(())
}

impl Place {
    fn data(&self, environment: &BTreeMap<String, String>) -> Result<PathBuf, Vec<String>> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        match Storage::read(&cli::environment_of(&self.app, environment)?)?.0.records {
            Records::Embedded(data, _) => Ok(data),
            Records::Cosmos(..) => Err(vec!["the records are in Cosmos DB, which has backups of its own; --data names a directory".into()]),
        }
    }
}
