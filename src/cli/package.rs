//! `waybill package`: the archive that is deployed, checked before it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use functions_host::app;
use host_json::parse;
use packaging::arch::Arch;
use packaging::archive::{self, File};
use packaging::build::{self, Built, Plan};
use packaging::{elf, sbom};
use serde_json::Value;

use crate::cli::app_files::SETTINGS;
use crate::cli::app_files::{ORDER, own_sample};
use crate::cli::demo::{self, Trial};
use crate::cli::misfit::{self, Misfit};
use crate::cli::settings::has_own_work;

/// Options of `waybill package`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The app's folder, with its host.json, function folders and Cargo.toml.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The processor: `x86_64`, or `aarch64` for containers.
    #[arg(long, default_value = Arch::X86_64.name(), value_parser = arch)]
    arch: Arch,
    /// The folder to write to [default: target/package in the app's folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Pack this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The cargo profile to build with.
    #[arg(long, value_name = "NAME", default_value = "dist")]
    profile: String,
    /// Who may call the HTTP functions: `keys`, as their function.json says, or `tokens`, which the handler checks itself (`AUTH_ISSUER`).
    #[arg(long, value_name = "WHO", default_value = "keys", value_parser = ["keys", "tokens"])]
    auth: String,
    /// One more file or folder of the app to pack, such as a schema. May be given again.
    #[arg(long, value_name = "PATH")]
    include: Vec<PathBuf>,
    /// Unpack what was packed, start it under the stand-in for the host, and send one order to its end: the app's order.json or
    /// samples/order.json. Where others do the work, or no order is known, the handler need only say that it is ready.
    #[arg(long)]
    check: bool,
}

fn arch(text: &str) -> Result<Arch, String> {
    Arch::ALL.into_iter().find(|arch| arch.name() == text).ok_or_else(|| "use x86_64 or aarch64".into())
}

/// Builds and packs. `Err`: every reason why there is no package.
pub(super) fn run(options: &Options, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let one = |problem: String| vec![problem];
    if options.check && !options.arch.runs_here() {
        return Err(one(format!("--check starts the binary, and this machine does not run {} for Linux", options.arch)));
    }
    let app = app::summary(&options.app, environment)?;
    let program = executable(&app.executable).map_err(one)?;
    let problems = misfits(&app);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut files = files(options, &app).map_err(one)?;

    let built = match &options.binary {
        Some(_) => None,
        None if !options.app.join("Cargo.toml").exists() => {
            return Err(one(format!(
                "{} has no Cargo.toml to build the handler from: pass --binary FILE with a static {} binary",
                options.app.display(),
                options.arch
            )));
        }
        None => {
            let name = program.rsplit('/').next().unwrap_or(&program);
            let version = format!("{} ({}, {}, {})", env!("CARGO_PKG_VERSION"), build::commit(&options.app), options.arch, options.profile);
            let told = [("WAYBILL_BUILD", version)];
            let plan = Plan { folder: &options.app, program: name, arch: options.arch, profile: &options.profile, told: &told };
            Some(build::build(plan).map_err(one)?)
        }
    };
    let path = match (&options.binary, &built) {
        (Some(path), _) => path,
        (None, Some(built)) => &built.binary,
        (None, None) => unreachable!("one of the two was made above"),
    };
    let binary = std::fs::read(path).map_err(|error| one(format!("cannot read {}: {error}", path.display())))?;
    elf::check(&binary, options.arch).map_err(|problem| one(format!("{} is not for Azure: {problem}", path.display())))?;
    let size = binary.len();
    if files.insert(program.clone(), File { content: binary, executable: true }).is_some() {
        return Err(one(format!("{program} is both the handler's binary and a file of the app: give one of them another name")));
    }

    let archive = archive::pack(&files).map_err(one)?;
    let sha256 = archive::sha256(&archive);
    let checked = options.check.then(|| check(options, &archive, environment)).transpose()?;
    let out = options.out.clone().unwrap_or_else(|| options.app.join("target/package"));
    let zip = write(&out, &archive, &sha256, built.as_ref()).map_err(one)?;
    println!("{}: {} files, {}, its binary {}", zip.display(), files.len(), mebibytes(archive.len()), mebibytes(size));
    println!("SHA-256 {sha256}");
    if let Some(checked) = checked {
        println!("{checked}");
    }
    Ok(())
}

/// Where the binary lies in the package: `defaultExecutablePath`, which must stay inside.
pub(super) fn executable(written: &str) -> Result<String, String> {
    let path = written.trim().trim_start_matches("./");
    let parts: Vec<_> = path.split('/').collect();
    let inside = !path.contains(['\\', '%', ':']) && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    if inside {
        Ok(path.to_owned())
    } else {
        Err(format!(
            "host.json's customHandler.description.defaultExecutablePath is {written:?}: it must be a path below the app's folder, such as \"waybill\""
        ))
    }
}

/// Where the app and the handler disagree about the functions.
fn misfits(app: &app::Summary) -> Vec<String> {
    let said = |misfit| match misfit {
        Misfit::InError(name, reason) => format!("the function {name} would not run: {reason}"),
        Misfit::Unknown(name) => {
            format!("the handler has no function {name}: remove the folder, or correct its name (upper and lower case count)")
        }
        Misfit::Missing(name) => format!("the handler's function {name} has no folder in the app, so Azure would never call it"),
    };
    misfit::misfits(app).into_iter().map(said).collect()
}

/// The files of the package, without the binary.
fn files(options: &Options, app: &app::Summary) -> Result<BTreeMap<String, File>, String> {
    let mut files = BTreeMap::new();
    add(&options.app, Path::new("host.json"), &mut files)?;
    for name in app.functions.iter().chain(&app.disabled) {
        add(&options.app, Path::new(name), &mut files)?;
        if options.auth == "tokens" {
            let path = format!("{name}/function.json");
            let file = files.get_mut(&path).ok_or_else(|| format!("{path} is no file"))?;
            file.content = open_to_tokens(&file.content).map_err(|error| format!("{path}: {error}"))?;
        }
    }
    for path in &options.include {
        if path.is_absolute() || path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(format!("--include {} must be a path below the app's folder", path.display()));
        }
        add(&options.app, path, &mut files)?;
    }
    Ok(files)
}

/// Adds a file, or what lies in a folder; hidden files are left out, and secrets of this machine never go in.
fn add(app: &Path, path: &Path, files: &mut BTreeMap<String, File>) -> Result<(), String> {
    let full = app.join(path);
    let name = path.to_str().ok_or_else(|| format!("the name of {} is not UTF-8", full.display()))?.replace('\\', "/");
    let what = std::fs::symlink_metadata(&full).map_err(|error| format!("cannot read {}: {error}", full.display()))?;
    if what.is_dir() {
        let entries = std::fs::read_dir(&full).map_err(|error| format!("cannot read {}: {error}", full.display()))?;
        for entry in entries {
            let entry = entry.map_err(|error| format!("cannot read {}: {error}", full.display()))?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                add(app, &path.join(entry.file_name()), files)?;
            }
        }
        return Ok(());
    }
    if !what.is_file() {
        return Err(format!("{} is neither a file nor a folder; a package has no links", full.display()));
    }
    if path.file_name().is_some_and(|name| name.eq_ignore_ascii_case("local.settings.json")) {
        return Err(format!("{} holds secrets of this machine and is never packed", full.display()));
    }
    let content = std::fs::read(&full).map_err(|error| format!("cannot read {}: {error}", full.display()))?;
    files.insert(name, File { content, executable: false });
    Ok(())
}

/// The function.json with `authLevel` "anonymous" where it was "function": the handler checks the caller's token itself.
fn open_to_tokens(content: &[u8]) -> Result<Vec<u8>, String> {
    let mut function = parse(&host_json::decode(content))?;
    for binding in function["bindings"].as_array_mut().into_iter().flatten() {
        let level = binding.as_object_mut().and_then(|binding| binding.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("authLevel")));
        if let Some((_, level)) = level
            && level.as_str().is_some_and(|level| level.eq_ignore_ascii_case("function"))
        {
            *level = Value::from("anonymous");
        }
    }
    let mut text = serde_json::to_vec_pretty(&function).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

/// Runs what was packed: what Azure would unpack and start. `Ok`: what was found, in words.
fn check(options: &Options, archive: &[u8], environment: &BTreeMap<String, String>) -> Result<String, Vec<String>> {
    let settings = settings(&options.app).map_err(|problem| vec![problem])?;
    let (trial, found) = trial(&options.app, &settings).map_err(|problem| vec![problem])?;
    let stage = demo::Stage::set(environment)?;
    archive::unpack(archive, &stage.app()).map_err(|error| vec![format!("cannot unpack the package: {error}")])?;
    let works = stage.try_out(settings, &trial);
    works.map_err(|problems| problems.into_iter().map(|problem| format!("the package does not work: {problem}")).collect::<Vec<_>>())?;
    Ok(format!("Checked: {found}"))
}

/// The settings that the app shows for a machine of one's own, else those for the built-in work.
fn settings(app: &Path) -> Result<Value, String> {
    let path = app.join("local.settings.json.example");
    let text = if path.exists() { host_json::text_of(&path) } else { Ok(SETTINGS.into()) };
    text.and_then(|text| parse(&text)).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// What an app with these settings can be tried with alone, and what is known once it did that.
fn trial(app: &Path, settings: &Value) -> Result<(Trial, String), String> {
    let is_set = |name: &str| settings["Values"][name].as_str().is_some_and(|value| !value.trim().is_empty());
    let ready = |why: &str| Ok((Trial::Health, format!("the handler starts and answers /api/health; no order was sent, since {why}")));
    if is_set("FULFILLMENT_URL") {
        return ready("FULFILLMENT_URL does the work");
    }
    if is_set("AUTH_ISSUER") {
        return ready("callers need a token of AUTH_ISSUER");
    }
    if let Some((name, order)) = own_sample(app)? {
        return Ok((Trial::Order(order.into()), format!("the order of {name} went to its end")));
    }
    if has_own_work(app) {
        return ready("the app has work of its own, and neither order.json nor samples/order.json");
    }
    Ok((Trial::Order(ORDER.into()), "one order went to its end".into()))
}

/// Writes the archive and what stands beside it. Each appears whole or not at all.
fn write(out: &Path, archive: &[u8], sha256: &str, built: Option<&Built>) -> Result<PathBuf, String> {
    std::fs::create_dir_all(out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;
    let put = |name: &str, content: &[u8]| {
        let (path, part) = (out.join(name), out.join(format!("{name}.part")));
        std::fs::write(&part, content)
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok::<_, String>(path)
    };
    let materials = out.join("waybill.cdx.json");
    match built {
        Some(built) => {
            let list = sbom::cyclonedx(&built.crates(), &built.root, sha256);
            let mut text = serde_json::to_vec_pretty(&list).map_err(|error| error.to_string())?;
            text.push(b'\n');
            put("waybill.cdx.json", &text)?;
        }
        // A list from an earlier build would be about another binary.
        None if materials.exists() => {
            std::fs::remove_file(&materials).map_err(|error| format!("cannot remove {}: {error}", materials.display()))?;
        }
        None => {}
    }
    put("waybill.zip.sha256", format!("{sha256}  waybill.zip\n").as_bytes())?;
    put("waybill.zip", archive)
}

fn mebibytes(bytes: usize) -> String {
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_stays_inside_the_package() {
        for (written, path) in [("waybill", "waybill"), ("./waybill", "waybill"), ("bin/waybill", "bin/waybill"), (" waybill ", "waybill")]
        {
            assert_eq!(executable(written).as_deref(), Ok(path), "{written}");
        }
        for written in ["", "/usr/bin/waybill", "../waybill", "bin/../../waybill", "bin//waybill", "C:\\waybill.exe", "%HANDLER%"] {
            assert!(executable(written).expect_err("outside").contains("defaultExecutablePath"), "{written}");
        }
    }

    #[test]
    fn tokens_open_functions_with_keys_and_no_others() {
        let before =
            br#"{"bindings": [{"type": "httpTrigger", "AuthLevel": "Function", "name": "req"}, {"authLevel": "admin"}, {"type": "http"}]}"#;
        let after: Value = serde_json::from_slice(&open_to_tokens(before).expect("it is JSON")).expect("it stays JSON");
        assert_eq!(after["bindings"][0]["AuthLevel"], "anonymous");
        assert_eq!(after["bindings"][1]["authLevel"], "admin");
    }
}
