//! The crates that are compiled into a program.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;

use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use object::write::{Object, Symbol, SymbolSection};
use object::{BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};
use serde_json::{Value, json};

use crate::arch::Arch;

/// The symbol that keeps the list in the program; the linker gets it as a symbol that the program needs.
pub const SYMBOL: &str = "AUDITABLE_VERSION_INFO";

/// One crate.
#[derive(Debug)]
pub struct Crate<'m> {
    /// What cargo says of it.
    pub package: &'m Package,
    /// Whether it runs in the program, rather than only while that is built.
    pub at_run_time: bool,
    /// The crates it uses, by their places in the list.
    pub uses: BTreeSet<usize>,
}

/// The name and version of a crate.
pub type Name = (String, String);

/// The crates of the program of `root`, sorted by name and version: its own, those it uses, and those that build them.
///
/// `compiled` are those that cargo compiles for this program. The metadata alone says more than that: in a workspace it is about all
/// packages and all their default features together.
pub fn list<'m>(metadata: &'m Metadata, root: &PackageId, compiled: &BTreeSet<Name>) -> Vec<Crate<'m>> {
    let nodes: BTreeMap<&PackageId, _> = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    // Whether each crate that is reached runs in the program. A crate can be reached in both ways; then it does.
    let mut reached: BTreeMap<&PackageId, bool> = BTreeMap::new();
    let mut ahead = VecDeque::from([(root, true)]);
    while let Some((id, at_run_time)) = ahead.pop_front() {
        let before = reached.get(id).copied();
        if before == Some(true) || before == Some(at_run_time) {
            continue;
        }
        let Some((id, node)) = nodes.get_key_value(id).filter(|(id, _)| compiled.contains(&name(&metadata[**id]))) else { continue };
        reached.insert(id, at_run_time);
        let is_macro = metadata[*id].targets.iter().any(cargo_metadata::Target::is_proc_macro);
        for used in &node.deps {
            for kind in used.dep_kinds.iter().map(|kind| kind.kind).filter(|kind| *kind != DependencyKind::Development) {
                ahead.push_back((&used.pkg, at_run_time && !is_macro && kind == DependencyKind::Normal));
            }
        }
    }
    let mut packages: Vec<_> = reached.into_iter().map(|(id, at_run_time)| (&metadata[id], at_run_time)).collect();
    packages.sort_by_key(|(package, _)| (package.name.as_str(), &package.version));
    let places: BTreeMap<&PackageId, usize> = packages.iter().enumerate().map(|(place, (package, _))| (&package.id, place)).collect();
    let uses = |package: &Package| {
        let used = nodes.get(&package.id).into_iter().flat_map(|node| &node.deps);
        let used = used.filter(|used| used.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
        used.filter_map(|used| places.get(&used.pkg).copied()).collect()
    };
    packages.into_iter().map(|(package, at_run_time)| Crate { package, at_run_time, uses: uses(package) }).collect()
}

fn name(package: &Package) -> Name {
    (package.name.to_string(), package.version.to_string())
}

/// The list in the form of `cargo auditable`, which scanners such as `cargo audit bin`, Trivy and Syft read from a section `.dep-v0`.
fn auditable(crates: &[Crate<'_>], root: &PackageId) -> Value {
    let packages = crates.iter().map(|one| {
        let mut entry = json!({
            "name": one.package.name.as_str(),
            "version": one.package.version.to_string(),
            "source": match &one.package.source {
                None => "local",
                Some(source) if source.is_crates_io() => "crates.io",
                Some(source) if source.repr.starts_with("git") => "git",
                Some(_) => "registry",
            },
        });
        if !one.at_run_time {
            entry["kind"] = "build".into();
        }
        if !one.uses.is_empty() {
            entry["dependencies"] = one.uses.iter().copied().collect();
        }
        if one.package.id == *root {
            entry["root"] = true.into();
        }
        entry
    });
    json!({ "packages": packages.collect::<Vec<_>>() })
}

/// An object file to link into the program, which holds the list.
pub fn object_file(crates: &[Crate<'_>], root: &PackageId, arch: Arch) -> Result<Vec<u8>, String> {
    let mut compressed = ZlibEncoder::new(Vec::new(), Compression::best());
    let compressed = compressed
        .write_all(auditable(crates, root).to_string().as_bytes())
        .and_then(|()| compressed.finish())
        .map_err(|error| error.to_string())?;
    let mut object = Object::new(BinaryFormat::Elf, arch.object(), Endianness::Little);
    let section = object.add_section(Vec::new(), b".dep-v0".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(section, &compressed, 1);
    object.add_symbol(Symbol {
        name: SYMBOL.into(),
        value: 0,
        size: compressed.len() as u64,
        kind: SymbolKind::Data,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.write().map_err(|error| error.to_string())
}
