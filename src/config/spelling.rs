//! Settings that nothing reads: a misspelt name, a name of an earlier version, a name that no part of an app knows.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::catalogue::{ALL, GONE, Setting};

/// Beginnings of the names that the Functions host, the platform and the Azure libraries read.
const PLATFORM: [&str; 17] = [
    "APPINSIGHTS_",
    "APPLICATIONINSIGHTS_",
    "APPSETTING_",
    "ASPNETCORE_",
    "AZURE_",
    "AzureFunctionsJobHost",
    "AzureFunctionsWebHost",
    "AzureWebJobs",
    "CONTAINER_",
    "DOTNET_",
    "FUNCTIONS_",
    "IDENTITY_",
    "MSI_",
    "OTEL_",
    "SCM_",
    "SSL_CERT_",
    "WEBSITE",
];
/// Letters from which a name may differ by two mistakes rather than one. Short names are often similar to each other.
const LONG: usize = 9;

/// Warnings about names in the environment, which holds many names of other programs: only about misspelt settings, and settings of
/// earlier versions.
pub fn in_environment<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter_map(|name| doubt(name).map(|doubt| format!("{name} {doubt}"))).collect()
}

/// Warnings about `Values` of an app's settings that nothing reads: neither this program, nor the host, nor a file of the app.
/// Names that [`in_environment`] warns of are left out, since every value is in the handler's environment too.
pub fn in_values(values: &BTreeMap<String, String>, app: &Path) -> Vec<String> {
    let named = files(app);
    let is_unread = |name: &&String| {
        let name = name.as_str();
        !is_known(name) && doubt(name).is_none() && !is_platform(name) && !named.iter().any(|text| names(text, name))
    };
    values
        .keys()
        .filter(is_unread)
        .map(|name| format!("{name} in Values has no effect: it is no setting, and no binding of the app names it"))
        .collect()
}

/// Whether this program reads a variable of this name, or the host, the platform or the Azure libraries do.
pub fn is_read(name: &str) -> bool {
    is_known(name) || is_platform(name)
}

/// Whether this is a setting of this program, or a part of one. In a setting that the bindings read, case does not matter.
fn is_known(name: &str) -> bool {
    let is = |setting: &Setting| {
        setting.names().any(|known| if setting.is_binding() { known.eq_ignore_ascii_case(&name.replace(':', "__")) } else { known == name })
    };
    ALL.iter().any(is)
}

/// The warning about a name that is a setting of an earlier version, or nearly a setting.
fn doubt(name: &str) -> Option<String> {
    if let Some(gone) = GONE.iter().find(|gone| gone.name == name) {
        return Some(format!("is not a setting any more: {}", gone.instead));
    }
    if is_known(name) || is_platform(name) {
        return None;
    }
    let names: Vec<_> = ALL.iter().flat_map(Setting::names).collect();
    nearest(name, names.iter().map(AsRef::as_ref)).map(|known| format!("is no setting: did you mean {known}?"))
}

/// The name that differs from this one by a mistake or two, in any case.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let upper = name.to_ascii_uppercase();
    let (mistakes, known) = names.map(|known| (distance(&known.to_ascii_uppercase(), &upper), known)).min()?;
    let allowed = if known.len() < LONG { 1 } else { 2 };
    (mistakes <= allowed).then_some(known)
}

fn is_platform(name: &str) -> bool {
    PLATFORM.iter().any(|start| name.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start)))
}

/// The files of an app in which a setting may be named.
fn files(app: &Path) -> Vec<String> {
    let folders = std::fs::read_dir(app).into_iter().flatten().flatten().map(|entry| entry.path().join("function.json"));
    let files = folders.chain([app.join("host.json")]);
    files.filter_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.to_ascii_lowercase()).collect()
}

/// Whether a text in lower case mentions the setting as `%NAME%`, or as a connection: `"NAME"`, whose parts are `NAME__…`.
fn names(text: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let connection = name.split("__").next().and_then(|name| name.split(':').next()).unwrap_or(&name);
    text.contains(&format!("%{name}%")) || text.contains(&format!("\"{connection}\""))
}

/// The number of letters to add, leave out, replace, or swap with their neighbour, to turn one name into the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    rows[0] = (0..=other.len()).collect();
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_ours_is_told_with_ours() {
        for (name, ours) in [
            ("WORK_DELYA", "WORK_DELAY"),
            ("work_delay", "WORK_DELAY"),
            ("RETENTON", "RETENTION"),
            ("LEASES", "LEASE"),
            ("TRACKING_KEY_ID", ""),
            ("ServiceBusConection", "ServiceBusConnection"),
            ("CosmosConnection__accountEndpont", "CosmosConnection__accountEndpoint"),
            ("RELEASE", ""),
            ("HOME", ""),
            ("LEASE", ""),
            ("servicebusconnection__CLIENTID", ""),
        ] {
            let expected = if ours.is_empty() { vec![] } else { vec![format!("{name} is no setting: did you mean {ours}?")] };
            assert_eq!(in_environment([name].into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn a_setting_of_an_earlier_version_is_told_with_what_holds_now() {
        assert_eq!(
            in_environment(["LEASE_RENEWAL"].into_iter()),
            ["LEASE_RENEWAL is not a setting any more: a lease is renewed every third of LEASE"]
        );
    }

    #[test]
    fn no_setting_is_near_another() {
        for setting in ALL {
            assert_eq!(in_environment(setting.names().collect::<Vec<_>>().iter().map(String::as_str)), [""; 0]);
        }
    }

    #[test]
    fn letters_are_counted() {
        for (one, other, expected) in [("", "", 0), ("ab", "ba", 1), ("abc", "abcd", 1), ("abc", "axcd", 2), ("a", "abcd", usize::MAX)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
