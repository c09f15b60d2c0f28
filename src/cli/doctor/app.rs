//! An app's folder before its deployment, looked at as Azure would.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use functions_host::app;
use host_json::time_span::time_span;
use packaging::arch::Arch;
use packaging::elf;
use serde_json::Value;

use crate::cli::misfit::{Misfit, misfits};
use crate::cli::package::executable;
use crate::cli::settings::{at, has_own_work};
use crate::config::{Config, function_timeout, is_key_vault_reference, spelling};
use crate::functions::doctor::finding::{
    APP_UNREADABLE, EXTENSION_BUNDLE, EXTENSION_VERSION, FORWARDING, FUNCTION_DISABLED, FUNCTION_LEFT_OUT, FUNCTION_MISSING,
    FUNCTION_UNKNOWN, Finding, HANDLER_MISSING, HANDLER_NOT_EXECUTABLE, HANDLER_WRONG, HOST_STORAGE, KEYS_AND_TOKENS, LOCK_RENEWAL,
    OPEN_TO_ALL, SETTING, SETTING_WITHOUT_EFFECT, Severity, WORKER_RUNTIME,
};

/// `maxAutoLockRenewalDuration` of the Service Bus extension where host.json has none.
const RENEWAL: Duration = Duration::from_mins(5);
/// The functions through which a stranger could act on orders.
const GUARDED: &str = "Order";

type Settings = BTreeMap<String, String>;

/// Looks at the folder, by the settings of a deployed app if they are given, else by local.settings.json.
pub(super) fn examine(folder: &Path, deployed: Option<&Path>) -> Result<Vec<Finding>, Vec<String>> {
    let values = match deployed {
        Some(path) => listed(path).map_err(|problem| vec![problem])?,
        None => app::settings_of(folder)?,
    };
    let summary = match app::summary(folder, &values) {
        Ok(summary) => summary,
        Err(problems) => {
            let of = |problem| Finding::of(&APP_UNREADABLE, problem, "correct the file at this place");
            return Ok(problems.into_iter().map(of).collect());
        }
    };
    let one = |problem: String| vec![problem];
    let host = read(&folder.join("host.json")).map_err(one)?;
    let open = open_functions(folder, &summary).map_err(one)?;
    let found = [
        functions(&summary),
        self::host(&host, &values, folder),
        handler(folder, &summary.executable),
        settings(&values, folder, deployed.is_some()),
        door(&open, &values),
    ];
    Ok(found.concat())
}

/// The settings that `az functionapp config appsettings list` prints; the form of local.settings.json is taken too.
fn listed(path: &Path) -> Result<Settings, String> {
    let settings = read(path)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(list) = settings.as_array() {
        let pair = |entry: &Value| Some((entry["name"].as_str()?.to_owned(), text(&entry["value"])));
        return list.iter().map(pair).collect::<Option<_>>().ok_or_else(|| not_settings(path));
    }
    let values = settings.get("Values").unwrap_or(&settings).as_object().ok_or_else(|| not_settings(path))?;
    Ok(values.iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

fn not_settings(path: &Path) -> String {
    format!("{} has no settings: it must be what `az functionapp config appsettings list -g GROUP -n APP` prints", path.display())
}

fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    host_json::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn functions(app: &app::Summary) -> Vec<Finding> {
    let found = |misfit| match misfit {
        Misfit::InError(name, reason) => Finding::of(&FUNCTION_LEFT_OUT, format!("{name}/function.json: {reason}"), "correct the file"),
        Misfit::Unknown(name) => {
            let mend = "remove the folder, or correct its name: upper and lower case count";
            Finding::of(&FUNCTION_UNKNOWN, format!("the handler has no function {name}"), mend)
        }
        Misfit::Missing(name) => {
            let mend = format!("copy {name}/function.json from the repository of the handler");
            Finding::of(&FUNCTION_MISSING, format!("there is no folder {name}"), mend)
        }
    };
    let mut found: Vec<_> = misfits(app).into_iter().map(found).collect();
    found.extend(
        app.disabled
            .iter()
            .map(|name| Finding::of(&FUNCTION_DISABLED, format!("{name} is switched off"), format!("unset AzureWebJobs.{name}.Disabled"))),
    );
    if found.is_empty() {
        found.push(Finding::fine("functions", format!("{} functions, each with its folder", app.functions.len())));
    }
    found
}

fn host(host: &Value, values: &Settings, folder: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    if at(host, &["customHandler", "enableForwardingHttpRequest"]).and_then(Value::as_bool) == Some(true) {
        let what = "host.json: customHandler.enableForwardingHttpRequest is true";
        found.push(Finding::of(&FORWARDING, what, "set it to false"));
    }
    if at(host, &["extensionBundle", "id"]).and_then(Value::as_str) != Some("Microsoft.Azure.Functions.ExtensionBundle") {
        let what = "host.json: extensionBundle.id is not Microsoft.Azure.Functions.ExtensionBundle";
        let mend = r#""extensionBundle": { "id": "Microsoft.Azure.Functions.ExtensionBundle", "version": "[4.*, 5.0.0)" } in host.json"#;
        found.push(Finding::of(&EXTENSION_BUNDLE, what, mend));
    }
    let mut all = values.clone();
    all.entry("FUNCTIONS_APP_ROOT_PATH".into()).or_insert_with(|| folder.display().to_string());
    let timeout = function_timeout::of(&all).value;
    let renewal = at(host, &["extensions", "serviceBus", "maxAutoLockRenewalDuration"]).and_then(Value::as_str).and_then(time_span);
    let renewal = renewal.unwrap_or(RENEWAL);
    if renewal < timeout {
        let what = format!("host.json: extensions.serviceBus.maxAutoLockRenewalDuration is {renewal:?}, and functionTimeout {timeout:?}");
        found.push(Finding::of(&LOCK_RENEWAL, what, "set maxAutoLockRenewalDuration a minute above functionTimeout"));
    }
    if found.is_empty() {
        found.push(Finding::fine("host.json", format!("functionTimeout {timeout:?}, lock renewed for {renewal:?}")));
    }
    found
}

fn handler(folder: &Path, written: &str) -> Vec<Finding> {
    let inside = match executable(written) {
        Ok(inside) => inside,
        Err(problem) => return vec![Finding::of(&HANDLER_MISSING, problem, "set it to waybill")],
    };
    let path = folder.join(&inside);
    let Ok(binary) = std::fs::read(&path) else {
        let what = format!("there is no file {}, which host.json names as defaultExecutablePath", path.display());
        let mend = "waybill package builds it and packs it with the app: look at the unpacked package";
        return vec![Finding::of(&HANDLER_MISSING, what, mend)];
    };
    let mode = std::fs::metadata(&path).map(|what| what.permissions().mode()).unwrap_or_default();
    let mut found = Vec::new();
    if mode & 0o111 == 0 {
        let what = format!("{} has no executable bit", path.display());
        found.push(Finding::of(&HANDLER_NOT_EXECUTABLE, what, format!("chmod 755 {}", path.display())));
    }
    if let Err(problem) = elf::check(&binary, Arch::X86_64) {
        let what = format!("{} would not start in Azure: {problem}", path.display());
        found.push(Finding::of(&HANDLER_WRONG, what, "waybill package"));
    }
    if found.is_empty() {
        found.push(Finding::fine("handler", format!("{} is a static binary for Linux on x86-64", path.display())));
    }
    found
}

fn settings(values: &Settings, folder: &Path, are_deployed: bool) -> Vec<Finding> {
    let mut all = values.clone();
    all.entry("FUNCTIONS_APP_ROOT_PATH".into()).or_insert_with(|| folder.display().to_string());
    let mut references = Vec::new();
    if are_deployed {
        // The list shows references as they were set. Whether they resolve shows the running app, which refuses those that do not.
        for (name, value) in all.iter_mut().filter(|(_, value)| is_key_vault_reference(value)) {
            references.push(name.clone());
            plausible(name).clone_into(value);
        }
    }
    let (place, set) = if are_deployed {
        // The platform's own sign of itself, which is no app setting.
        all.entry("WEBSITE_INSTANCE_ID".into()).or_insert_with(|| "doctor".into());
        (
            "the deployed settings",
            "az functionapp config appsettings set -g GROUP -n APP --settings NAME=VALUE; docs/settings.md has each of them",
        )
    } else {
        ("local.settings.json", "correct local.settings.json; docs/settings.md has each setting")
    };
    let mut found: Vec<_> =
        Config::problems(&all, has_own_work(folder)).into_iter().map(|problem| Finding::of(&SETTING, problem, set)).collect();
    let warnings = spelling::in_environment(values.keys().map(String::as_str)).into_iter().chain(spelling::in_values(values, folder));
    found.extend(warnings.map(|warning| Finding::of(&SETTING_WITHOUT_EFFECT, warning, set)));
    if are_deployed {
        found.extend(platform(values));
    }
    if !references.is_empty() {
        found.push(Finding::fine(
            "references",
            format!("{} are kept in a Key Vault; the running app tells whether they resolve", references.join(", ")),
        ));
    }
    if found.iter().all(|finding| finding.severity == Severity::Fine) {
        found.push(Finding::fine("settings", format!("{place} are good")));
    }
    found
}

/// A value that passes for what a Key Vault keeps for this setting.
fn plausible(name: &str) -> &'static str {
    match name {
        "CALLBACK_SECRET" => "whsec_a2VwdC1pbi1hLWtleS12YXVsdC0wMTIzNDU2Nzg5",
        name if name.ends_with("_URL") || name == "AUTH_ISSUER" => "https://kept.example.com/",
        "ServiceBusConnection" => "Endpoint=sb://kept.servicebus.windows.net/;SharedAccessKeyName=kept;SharedAccessKey=kept",
        "CosmosConnection" => "AccountEndpoint=https://kept.documents.azure.com:443/;AccountKey=a2VwdA==;",
        _ => "kept-in-a-key-vault-0123456789abcdef",
    }
}

/// Settings that only the platform and the host read.
fn platform(values: &Settings) -> Vec<Finding> {
    let set = |name: &str| values.get(name).map(String::as_str).filter(|value| !value.trim().is_empty());
    let mut found = Vec::new();
    if let Some(runtime) = set("FUNCTIONS_WORKER_RUNTIME").filter(|runtime| *runtime != "custom") {
        let mend = "on Flex Consumption delete the setting, and deploy with runtime custom 1.0; on other plans set it to custom";
        found.push(Finding::of(&WORKER_RUNTIME, format!("FUNCTIONS_WORKER_RUNTIME is {runtime}"), mend));
    }
    if let Some(version) = set("FUNCTIONS_EXTENSION_VERSION").filter(|version| !version.starts_with("~4") && !version.starts_with("4.")) {
        found.push(Finding::of(&EXTENSION_VERSION, format!("FUNCTIONS_EXTENSION_VERSION is {version}"), "set it to ~4"));
    }
    let storage = set("AzureWebJobsStorage");
    let has_identity = values.keys().any(|name| name.starts_with("AzureWebJobsStorage__"));
    if storage.is_some_and(|storage| storage.contains("UseDevelopmentStorage")) {
        let mend = "set AzureWebJobsStorage__accountName to the storage account, and give the app's identity Storage Blob Data Owner there";
        found.push(Finding::of(&HOST_STORAGE, "AzureWebJobsStorage is the emulator of a developer's machine", mend));
    } else if storage.is_none() && !has_identity {
        let mend = "set AzureWebJobsStorage__accountName to the storage account, and give the app's identity Storage Blob Data Owner there";
        found.push(Finding::of(&HOST_STORAGE, "neither AzureWebJobsStorage nor AzureWebJobsStorage__accountName is set", mend));
    }
    found
}

/// HTTP functions on orders that the platform lets everyone call, and those that need a key.
struct Open {
    anonymous: Vec<String>,
    keyed: Vec<String>,
}

fn open_functions(folder: &Path, app: &app::Summary) -> Result<Open, String> {
    let mut open = Open { anonymous: Vec::new(), keyed: Vec::new() };
    for name in app.functions.iter().filter(|name| name.starts_with(GUARDED)) {
        let function = read(&folder.join(name).join("function.json"))?;
        let bindings = at(&function, &["bindings"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |binding: &Value, name| at(binding, &[name]).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        let Some(trigger) = bindings.iter().find(|binding| text(binding, "type") == "httptrigger") else { continue };
        let to = if text(trigger, "authLevel") == "anonymous" { &mut open.anonymous } else { &mut open.keyed };
        to.push(name.clone());
    }
    Ok(open)
}

fn door(open: &Open, values: &Settings) -> Vec<Finding> {
    let set = |name: &str| values.get(name).is_some_and(|value| !value.trim().is_empty());
    let has_tokens = set("AUTH_ISSUER") || values.get("WEBSITE_AUTH_ENABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Open { anonymous, keyed } = open;
    vec![if !anonymous.is_empty() && !has_tokens {
        let mend = "set authLevel to function in their function.json, or set AUTH_ISSUER and AUTH_AUDIENCE";
        Finding::of(&OPEN_TO_ALL, format!("everyone may call {}", anonymous.join(", ")), mend)
    } else if !keyed.is_empty() && set("AUTH_ISSUER") {
        let what = format!("AUTH_ISSUER is set, and {} need a function key too", keyed.join(", "));
        Finding::of(&KEYS_AND_TOKENS, what, "waybill package --auth tokens")
    } else {
        Finding::fine("door", if has_tokens { "callers are told apart by their tokens" } else { "callers need a function key" })
    }]
}
