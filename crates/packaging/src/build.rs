//! Builds a program of a cargo package as one static Linux binary, the same each time.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::{Metadata, MetadataCommand, Package, PackageId};

use crate::arch::Arch;
use crate::archive;
use crate::dependencies::{self, Crate};

/// The feature that holds what only a developer's machine needs. It is left out of what is packed.
const LOCAL: &str = "local";

/// What is to be built.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The folder of the package's `Cargo.toml`.
    pub folder: &'a Path,
    /// The program among its programs.
    pub program: &'a str,
    /// The processor it will run on.
    pub arch: Arch,
    /// The cargo profile, which the package or its workspace must have.
    pub profile: &'a str,
    /// Variables that the program may read while it is compiled.
    pub told: &'a [(&'a str, String)],
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The binary.
    pub binary: PathBuf,
    /// The package of the program.
    pub root: PackageId,
    metadata: Metadata,
    compiled: BTreeSet<dependencies::Name>,
}

impl Built {
    /// The crates in the binary.
    pub fn crates(&self) -> Vec<Crate<'_>> {
        dependencies::list(&self.metadata, &self.root, &self.compiled)
    }
}

/// Builds the program; cargo's progress goes to stderr. Errors say what to install or change.
pub fn build(plan: Plan<'_>) -> Result<Built, String> {
    let manifest = plan.folder.join("Cargo.toml");
    let mut features = Vec::new();
    let options = ["--locked".into(), format!("--filter-platform={}", plan.arch.target())];
    let metadata = MetadataCommand::new().manifest_path(&manifest).other_options(options).exec().map_err(|error| error.to_string())?;
    let package = package(&metadata, &manifest)?;
    if !package.targets.iter().any(|target| target.is_bin() && target.name == plan.program) {
        return Err(format!(
            "{} builds no program {}: name one in host.json's customHandler.description.defaultExecutablePath",
            manifest.display(),
            plan.program
        ));
    }
    if let Some(default) = package.features.get("default").filter(|default| default.iter().any(|feature| feature == LOCAL)) {
        let kept: Vec<_> = default.iter().filter(|feature| *feature != LOCAL).map(String::as_str).collect();
        features.push("--no-default-features".to_owned());
        if !kept.is_empty() {
            features.push(format!("--features={}", kept.join(",")));
        }
    }
    let root = package.id.clone();

    install_target(plan)?;
    let place = metadata.target_directory.as_std_path().join("package");
    std::fs::create_dir_all(&place).map_err(|error| format!("cannot make {}: {error}", place.display()))?;
    let c_compiler = CCompiler::find(plan.arch, &place)?;
    let used = compiled(plan, &features)?;
    let object = dependencies::object_file(&dependencies::list(&metadata, &root, &used), &root, plan.arch)?;
    // Its name changes with its content: cargo does not see what a linker reads, and would not link again.
    let list = place.join(format!("dependencies-{}-{}.o", plan.arch, &archive::sha256(&object)[..16]));
    std::fs::write(&list, object).map_err(|error| format!("cannot write {}: {error}", list.display()))?;

    // cargo makes names in the binary from its arguments too, and starts the compiler in the workspace's folder: a path from there is
    // the same on every machine.
    let list = list.strip_prefix(&metadata.workspace_root).unwrap_or(&list);
    let mappings = Mappings::new(&metadata);
    let target = plan.arch.target();
    let mut cargo = Command::new(cargo());
    cargo
        .current_dir(plan.folder)
        .args(["rustc", "--locked", "--profile", plan.profile, "--target", target, "--bin", plan.program])
        .args(&features)
        .arg("--")
        .arg(format!("-Clink-arg={}", list.display()))
        .arg(format!("-Clink-args=-u {}", dependencies::SYMBOL))
        .env("CARGO_ENCODED_RUSTFLAGS", mappings.rust(c_compiler.linker))
        .env(for_target("CFLAGS", target), mappings.c())
        .env(for_target("CC", target), &c_compiler.path)
        .env("SOURCE_DATE_EPOCH", "315532800") // 1980, as in the archive
        .env("CARGO_INCREMENTAL", "0")
        .envs(plan.told.iter().map(|(name, value)| (*name, value.as_str())))
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null());
    let status = cargo.status().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err(format!("cargo could not build {} for {target}; its own lines above say why", plan.program));
    }
    let binary = metadata.target_directory.as_std_path().join(target).join(plan.profile).join(plan.program);
    Ok(Built { binary, root, metadata, compiled: used })
}

/// The commit of a folder, in words where there is none or files differ from it.
pub fn commit(folder: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} and changes"),
        (None, _) => "no commit".into(),
    }
}

/// The crates that cargo compiles for the program, by name and version.
fn compiled(plan: Plan<'_>, features: &[String]) -> Result<BTreeSet<dependencies::Name>, String> {
    let mut tree = Command::new(cargo());
    tree.current_dir(plan.folder)
        .args(["tree", "--locked", "--edges=normal,build", "--prefix=none", "--format={p}", "--target", plan.arch.target()])
        .args(features)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = tree.output().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err("cargo could not list the crates; its own lines above say why".into());
    }
    // Each line is `NAME vVERSION`, and for some a note in brackets.
    let lines = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
    };
    Ok(lines.lines().filter_map(name).collect())
}

fn package<'m>(metadata: &'m Metadata, manifest: &Path) -> Result<&'m Package, String> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let manifest = real(manifest);
    metadata
        .packages
        .iter()
        .find(|package| real(package.manifest_path.as_std_path()) == manifest)
        .ok_or_else(|| format!("{} describes a workspace, not a package", manifest.display()))
}

/// Has the compiler's target there: rustup installs it if it is missing.
fn install_target(plan: Plan<'_>) -> Result<(), String> {
    let target = plan.arch.target();
    let is_there = || {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).current_dir(plan.folder).args(["--print", "target-libdir", "--target", target]).output();
        let output = output.map_err(|error| format!("cannot start rustc: {error}"))?;
        Ok::<bool, String>(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if is_there()? {
        return Ok(());
    }
    let added = Command::new("rustup").current_dir(plan.folder).args(["target", "add", target]).stdin(Stdio::null()).status();
    if added.is_ok_and(|status| status.success()) && is_there()? {
        return Ok(());
    }
    Err(format!("the Rust compiler has no target {target}: run `rustup target add {target}`"))
}

/// The compiler of the C code in crates, and the linker where that is not the compiler's own.
struct CCompiler {
    path: OsString,
    linker: Option<&'static str>,
}

impl CCompiler {
    /// The one that the environment names, else musl's own, else zig's.
    fn find(arch: Arch, place: &Path) -> Result<Self, String> {
        let target = arch.target();
        // The system's linker knows only the machine's own processor; the one that comes with Rust knows all.
        let linker = (std::env::consts::ARCH != arch.name() || !cfg!(target_os = "linux")).then_some("rust-lld");
        if let Some(path) = env::var_os(for_target("CC", target)).filter(|path| !path.is_empty()) {
            return Ok(Self { path, linker });
        }
        let mut known = vec![format!("{arch}-linux-musl-gcc")];
        if linker.is_none() {
            known.insert(0, "musl-gcc".into());
        }
        if let Some(path) = known.into_iter().find(|name| starts(name, &["--version"])) {
            return Ok(Self { path: path.into(), linker });
        }
        let zig = if starts("zig", &["version"]) {
            "zig"
        } else if starts("python3", &["-m", "ziglang", "version"]) {
            "python3 -m ziglang"
        } else {
            return Err(format!(
                "no C compiler for {target}: install musl-tools (Debian, Ubuntu), musl-gcc (Fedora) or ziglang (`pip install ziglang`), or set {}",
                for_target("CC", target)
            ));
        };
        // The compiler must be one word; zig does not know Rust's name of the target, which the crates hand it; and it checks for undefined
        // behaviour in code that it does not optimise, by functions that no linker but its own finds.
        let script = format!(
            "#!/bin/sh\nfor a; do shift; case \"$a\" in --target=*) ;; *) set -- \"$@\" \"$a\" ;; esac; done\nexec {zig} cc -target {arch}-linux-musl -fno-sanitize=undefined \"$@\"\n"
        );
        let path = place.join(format!("zig-cc-{arch}"));
        std::fs::write(&path, script).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        make_executable(&path)?;
        Ok(Self { path: path.into(), linker })
    }
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<(), String> {
    Err("on this system set CC for the target to a C compiler that makes musl binaries".into())
}

fn starts(program: &str, arguments: &[&str]) -> bool {
    let command = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The name of a variable for one target, as the `cc` crate reads it: `CC_x86_64_unknown_linux_musl`.
fn for_target(name: &str, target: &str) -> String {
    format!("{name}_{}", target.replace('-', "_"))
}

/// Folders of this machine, and what they are called in the binary.
struct Mappings(Vec<(PathBuf, &'static str)>);

impl Mappings {
    fn new(metadata: &Metadata) -> Self {
        let workspace = metadata.workspace_root.as_std_path().to_owned();
        let mut folders = vec![(workspace.clone(), "/app")];
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        folders.extend(cargo_home.map(|home| (home, "/cargo")));
        let target = metadata.target_directory.as_std_path();
        if !target.starts_with(&workspace) {
            folders.push((target.to_owned(), "/app/target"));
        }
        Self(folders)
    }

    fn rust(&self, linker: Option<&str>) -> OsString {
        let mut flags = OsString::new();
        for (folder, name) in &self.0 {
            if !flags.is_empty() {
                flags.push("\u{1f}");
            }
            flags.push("--remap-path-prefix=");
            flags.push(folder);
            flags.push("=");
            flags.push(name);
        }
        if let Some(linker) = linker {
            flags.push(format!("\u{1f}-Clinker={linker}"));
        }
        flags
    }

    fn c(&self) -> OsString {
        let mut flags = OsString::new();
        for (folder, name) in &self.0 {
            if !flags.is_empty() {
                flags.push(" ");
            }
            flags.push("-ffile-prefix-map=");
            flags.push::<&OsStr>(folder.as_ref());
            flags.push("=");
            flags.push(name);
        }
        flags
    }
}
