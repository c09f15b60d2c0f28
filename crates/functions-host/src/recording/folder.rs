//! Recordings on disk: one file each, written whole, read back in any number.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use group_commit::directory;
use jiff::Timestamp;
use serde::Deserialize;

use crate::recording::{FORMAT, Recording, bytes_of};

/// End of the name of a recording.
const END: &str = "json";

/// A folder that recordings are written to.
pub(super) struct Folder {
    path: PathBuf,
    /// Moment in the name of the latest recording that was there before.
    pub(super) latest: Option<Timestamp>,
}

impl Folder {
    /// Opens a folder, and makes a new one private to the user. The error says why nothing can be written there.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let unusable = |error: std::io::Error| format!("cannot record into {}: {error}; pass another --record", path.display());
        directory::create(path).map_err(unusable)?;
        let probe = path.join(format!(".probe-{}.tmp", std::process::id()));
        create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(unusable)?;
        let names = fs::read_dir(path).map_err(unusable)?.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let latest = names.filter_map(|name| moment(&name)).max();
        Ok(Self { path: path.to_owned(), latest })
    }

    /// Writes a recording under its name, or not at all.
    pub(super) fn write(&self, recording: &Recording) -> std::io::Result<()> {
        let Recording { began, function, invocation, .. } = recording;
        let name = format!("{}-{function}-{invocation}", began.strftime("%Y%m%dT%H%M%S%.6fZ"));
        let temporary = self.path.join(format!(".{name}.tmp"));
        let text = serde_json::to_string_pretty(recording)?;
        let written = create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")))
            .and_then(|()| fs::rename(&temporary, self.path.join(format!("{name}.{END}"))));
        if written.is_err() {
            drop(fs::remove_file(&temporary));
        }
        written
    }
}

/// A new file that only the user reads.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The moment in the name of a recording.
fn moment(name: &str) -> Option<Timestamp> {
    let (moment, _) = name.strip_suffix(END)?.split_once("Z-")?;
    jiff::tz::Offset::UTC.to_timestamp(jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.f", moment).ok()?).ok()
}

/// Every recording in these files and folders that is wanted, in the order of their begin. The error names the file that is none.
pub fn read(places: &[PathBuf], is_wanted: impl Fn(&Recording) -> bool) -> Result<Vec<Recording>, String> {
    let mut files = BTreeSet::new();
    for place in places {
        let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", place.display());
        if !fs::metadata(place).map_err(unreadable)?.is_dir() {
            files.insert(place.canonicalize().map_err(unreadable)?);
            continue;
        }
        for entry in fs::read_dir(place).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !is_hidden && path.extension().is_some_and(|end| end == END) && path.is_file() {
                files.insert(path.canonicalize().map_err(unreadable)?);
            }
        }
    }
    let mut recordings = Vec::new();
    for file in files {
        let recording = one(&file)?;
        if is_wanted(&recording) {
            recordings.push(recording);
        }
    }
    recordings.sort_by_key(|recording| recording.began);
    Ok(recordings)
}

/// Version of a file, before anything else is read.
#[derive(Deserialize)]
struct Version {
    format: Option<serde_json::Value>,
}

fn one(file: &Path) -> Result<Recording, String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    let Version { format } = serde_json::from_str(&text).map_err(|error| format!("{name} is no recording: {error}"))?;
    match format {
        None => return Err(format!("{name} is no recording: it has no format")),
        Some(format) if format != FORMAT => return Err(format!("{name} is of format {format}; this program reads format {FORMAT}")),
        Some(_) => {}
    }
    let recording: Recording = serde_json::from_str(&text).map_err(|error| format!("{name} is no whole recording: {error}"))?;
    let request = bytes_of(recording.request.body.as_ref(), recording.request.body_base64.as_ref());
    let answer = recording.answer.as_ref().map_or(Some(Vec::new()), |answer| bytes_of(answer.body.as_ref(), answer.body_base64.as_ref()));
    if request.is_none() || answer.is_none() {
        return Err(format!("{name} is no whole recording: bodyBase64 is no base64"));
    }
    if recording.answer.is_none() && recording.failure.is_none() {
        return Err(format!("{name} is no whole recording: it has neither answer nor failure"));
    }
    Ok(recording)
}
