//! Where an app's folders and the handler disagree about the functions.

use functions_host::app::Summary;

use crate::functions::routes;

/// A disagreement about one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit<'a> {
    /// The host would leave the function out, for this reason.
    InError(&'a str, &'a str),
    /// The handler has no such function.
    Unknown(&'a str),
    /// The function has no folder.
    Missing(&'static str),
}

/// Every disagreement, in the order of its kind.
pub(super) fn misfits(app: &Summary) -> Vec<Misfit<'_>> {
    let in_error = app.in_error.iter().map(|(name, reason)| Misfit::InError(name, reason));
    let folders = || app.functions.iter().chain(&app.disabled).map(String::as_str);
    let unknown = folders().filter(|name| !routes::FUNCTIONS.contains(name)).map(Misfit::Unknown);
    let has_folder = |name: &str| folders().chain(app.in_error.iter().map(|(name, _)| name.as_str())).any(|folder| folder == name);
    let missing = routes::FUNCTIONS.into_iter().filter(|name| !has_folder(name)).map(Misfit::Missing);
    in_error.chain(unknown).chain(missing).collect()
}
