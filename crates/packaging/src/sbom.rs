//! The bill of materials: which crates are in the package, in `CycloneDX` 1.6.

use cargo_metadata::{Package, PackageId};
use serde_json::{Value, json};

use crate::dependencies::Crate;

/// A bill of materials of the package whose archive has this SHA-256. It has no date and no random number, so that it is the same each time.
pub fn cyclonedx(crates: &[Crate<'_>], root: &PackageId, sha256: &str) -> Value {
    let (own, others): (Vec<_>, Vec<_>) = crates.iter().partition(|one| one.package.id == *root);
    let own = own.first().map(|one| {
        let mut component = component(one.package);
        component["type"] = "application".into();
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        component
    });
    let dependencies = crates.iter().map(|one| {
        let uses: Vec<_> = one.uses.iter().map(|place| reference(crates[*place].package)).collect();
        json!({ "ref": reference(one.package), "dependsOn": uses })
    });
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": own },
        "components": others
            .iter()
            .map(|one| {
                let mut component = component(one.package);
                component["type"] = "library".into();
                component["scope"] = if one.at_run_time { "required" } else { "excluded" }.into();
                component
            })
            .collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    })
}

fn component(package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name.as_str(),
        "version": package.version.to_string(),
        "purl": reference(package),
    });
    if let Some(licence) = &package.license {
        // Old crates write MIT/Apache-2.0; SPDX has OR for that.
        component["licenses"] = json!([{ "expression": licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ") }]);
    }
    component
}

fn reference(package: &Package) -> String {
    // `+` of build metadata is written as %2B in a package URL.
    format!("pkg:cargo/{}@{}", package.name, package.version.to_string().replace('+', "%2B"))
}
