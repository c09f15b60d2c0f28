//! The zip that Azure unpacks.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipArchive, ZipWriter};

/// A file of the package.
#[derive(Clone, Debug)]
pub struct File {
    /// What it holds.
    pub content: Vec<u8>,
    /// Whether it is a program. Without that bit in the archive Azure cannot start the handler, and says only "permission denied".
    pub executable: bool,
}

/// The archive of these files by their paths in it, with `/` between folders: the same bytes for the same files.
pub fn pack(files: &BTreeMap<String, File>) -> Result<Vec<u8>, String> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, file) in files {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(6))
            .last_modified_time(DateTime::default()) // 1980-01-01: a zip cannot say less
            .unix_permissions(if file.executable { 0o755 } else { 0o644 })
            .system(System::Unix); // elsewhere the modes would not count
        zip.start_file(path.as_str(), options)
            .and_then(|()| Ok(zip.write_all(&file.content)?))
            .map_err(|error| format!("{path}: {error}"))?;
    }
    zip.finish().map(Cursor::into_inner).map_err(|error| error.to_string())
}

/// Unpacks an archive below `folder`, as Azure does: with the modes that are written in it.
pub fn unpack(archive: &[u8], folder: &Path) -> Result<(), String> {
    ZipArchive::new(Cursor::new(archive)).and_then(|mut zip| zip.extract(folder)).map_err(|error| error.to_string())
}

/// The files of an archive.
pub fn read(archive: &[u8]) -> Result<BTreeMap<String, File>, String> {
    let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(|error| error.to_string())?;
    let mut files = BTreeMap::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|error| error.to_string())?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(|error| error.to_string())?;
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let name = entry.name().map_err(|error| error.to_string())?.into_owned();
        files.insert(name, File { content, executable });
    }
    Ok(files)
}

/// SHA-256 in hexadecimal, as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<String, File> {
        BTreeMap::from([
            ("waybill".into(), File { content: b"\x7fELF".repeat(1000), executable: true }),
            ("host.json".into(), File { content: b"{}".to_vec(), executable: false }),
            ("OrderIngress/function.json".into(), File { content: b"{\"bindings\": []}".to_vec(), executable: false }),
        ])
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let first = pack(&files()).expect("it packs");
        assert_eq!(first, pack(&files()).expect("it packs"));

        let names: Vec<_> = read(&first).expect("a zip").into_keys().collect();
        assert_eq!(names, ["OrderIngress/function.json", "host.json", "waybill"]);
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn modes_and_dates_are_fixed_and_made_by_unix() {
        let archive = pack(&files()).expect("it packs");
        let mut zip = ZipArchive::new(Cursor::new(&archive)).expect("a zip");
        for (name, mode) in [("waybill", 0o100_755), ("host.json", 0o100_644)] {
            let entry = zip.by_name(name).expect("it is there");
            assert_eq!(entry.unix_mode(), Some(mode), "{name}");
            assert_eq!(entry.last_modified(), Some(DateTime::default()), "{name}");
        }
        // "Version made by" of the central directory: its upper byte is the system, 3 for Unix.
        let directory = archive.windows(4).position(|bytes| bytes == b"PK\x01\x02").expect("a central directory");
        assert_eq!(archive[directory + 5], 3);
    }
}
