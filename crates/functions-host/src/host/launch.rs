//! How a host starts its handler: the program, its arguments, its environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use uuid::Uuid;

use crate::app::App;
use crate::app::host_json::Executable;
use crate::handler;
use crate::handler::supervisor::{self, Launch, Plan};
use crate::host::Options;

/// Launch options of the handler, and a notice for the person, if any.
pub(crate) fn plan(
    options: &Options,
    app: &App,
    data: &Path,
    address: SocketAddr,
    rest_address: SocketAddr,
    environment: &BTreeMap<String, String>,
) -> Result<(Plan, Option<String>), Vec<String>> {
    let custom = app.host.custom_handler.clone();
    let mut notice = None;
    let executable = match (&options.arguments.handler, &custom.executable) {
        (Some(handler), _) => std::path::absolute(handler).unwrap_or_else(|_| handler.clone()),
        (None, Executable::File(path)) => path.clone(),
        (None, Executable::OnPath(program)) if is_named(Path::new(program), options.own_handler) => {
            let this = std::env::current_exe().map_err(|error| vec![format!("cannot find this program: {error}")])?;
            notice = Some(format!("{program} is not built in {}: using {} itself as the handler", app.root.display(), this.display()));
            this
        }
        (None, Executable::OnPath(program)) => program.into(),
    };
    let mut settings = app.settings.clone();
    settings.extend(options.variables.clone());
    let port = handler::free_port().map_err(|error| vec![format!("no port is free for the handler: {error}")])?;
    let played = [
        ("AZURE_FUNCTIONS_ENVIRONMENT", "Development".to_owned()),
        ("FUNCTIONS_CORETOOLS_ENVIRONMENT", "True".to_owned()),
        ("AzureWebJobsScriptRoot", app.root.display().to_string()),
        ("WEBSITE_HOSTNAME", shown(address)),
    ];
    let rest_endpoint = options.rest_endpoint_setting.map(|name| (name, format!("http://{rest_address}")));
    let data_directory = options.data_setting.map(|name| (name, data.display().to_string()));
    settings.extend(played.into_iter().chain(rest_endpoint).chain(data_directory).map(|(name, value)| (name.to_owned(), value)));
    let (root, environment) = (app.root.clone(), environment.clone());
    let (working_directory, initialization_timeout) = (custom.working_directory.clone(), custom.initialization_timeout);
    let launch = move |port| {
        let mut settings = settings.clone();
        settings.extend(supervisor::variables(&root, &Uuid::new_v4().to_string(), port));
        let lookup = |name: &str| settings.get(name).or_else(|| environment.get(name)).cloned();
        Launch { arguments: custom.arguments(lookup), environment: settings }
    };
    let plan = Plan {
        port,
        executable,
        launch: Box::new(launch),
        working_directory,
        initialization_timeout,
        record: data.join("handler.json"),
        inherited: options.inherited,
    };
    Ok((plan, notice))
}

/// Whether a program has this name, with or without an extension.
pub(crate) fn is_named(program: &Path, name: Option<&str>) -> bool {
    program.file_stem().zip(name).is_some_and(|(stem, name)| stem.eq_ignore_ascii_case(name))
}

/// Address as a person types it.
pub(crate) fn shown(address: SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}
