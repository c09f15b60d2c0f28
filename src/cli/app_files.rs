//! The files of the app, as they are deployed: commands that make an app run from any directory.

use std::collections::BTreeMap;
use std::path::Path;

/// The function that takes orders.
pub(super) const INGRESS: &str = "OrderIngress";
/// An order for the built-in work.
pub(super) const ORDER: &str = include_str!("../../samples/order.json");
/// The host's file.
pub(super) const HOST: &str = include_str!("../../host.json");
/// The host's file and those of the functions, by their paths.
pub(super) const APP: [(&str, &str); 12] = [
    ("host.json", HOST),
    ("Doctor/function.json", include_str!("../../Doctor/function.json")),
    ("Health/function.json", include_str!("../../Health/function.json")),
    ("OpenApi/function.json", include_str!("../../OpenApi/function.json")),
    ("OrderCancel/function.json", include_str!("../../OrderCancel/function.json")),
    ("OrderDeadLetter/function.json", include_str!("../../OrderDeadLetter/function.json")),
    ("OrderIngress/function.json", include_str!("../../OrderIngress/function.json")),
    ("OrderList/function.json", include_str!("../../OrderList/function.json")),
    ("OrderProcessor/function.json", include_str!("../../OrderProcessor/function.json")),
    ("OrderShow/function.json", include_str!("../../OrderShow/function.json")),
    ("OrderStatus/function.json", include_str!("../../OrderStatus/function.json")),
    ("OrderSweeper/function.json", include_str!("../../OrderSweeper/function.json")),
];
/// The settings of this machine, for the built-in work.
pub(super) const SETTINGS: &str = include_str!("../../local.settings.json.example");

/// The sample order of the app in this folder, and its path there.
pub(super) fn own_sample(app: &Path) -> Result<Option<(&'static str, String)>, String> {
    let Some(name) = ["order.json", "samples/order.json"].into_iter().find(|name| app.join(name).is_file()) else { return Ok(None) };
    let path = app.join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Some((name, text)))
}

/// Whether these settings give the orders a form of the app's own, which [`ORDER`] does not have.
pub(super) fn has_own_orders(settings: &BTreeMap<String, String>) -> bool {
    settings.get("ORDER_SCHEMA").is_some_and(|schema| !schema.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::functions::routes::FUNCTIONS;

    #[test]
    fn every_function_has_its_file_and_so_has_the_example() {
        for name in FUNCTIONS {
            let path = format!("{name}/function.json");
            let text = APP.iter().find(|(file, _)| *file == path).map(|(_, text)| *text);
            let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/own-work").join(&path)).ok();
            assert_eq!(example.as_deref(), text, "{path}");
        }
        assert_eq!(APP.len(), FUNCTIONS.len() + 1);
    }
}
