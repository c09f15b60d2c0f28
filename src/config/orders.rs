//! `ORDER_SCHEMA`, `ORDER_ID` and `ORDER_CUSTOMER`: the form of an order whose work is the deployment's own.

use std::path::{Component, Path};
use std::sync::Arc;

use order_schema::Schema;

use crate::config::{Settings, catalogue};
use crate::domain::form::{OrderForm, OwnForm, Pointer, Rules};

/// The value of a setting whose pointer leads nowhere: orders do not have it.
const NONE: &str = "none";

/// Reads the form, or lists the mistakes. The built-in work needs the built-in order.
pub(super) fn read(settings: &mut Settings<'_>, has_own_work: bool) -> OrderForm {
    let form = OwnForm {
        rules: if has_own_work { schema(settings) } else { None },
        order_id: pointer(settings, "ORDER_ID"),
        customer: pointer(settings, "ORDER_CUSTOMER"),
    };
    if has_own_work { OrderForm::Own(form) } else { OrderForm::BuiltIn }
}

/// Compiles the schema, a file below the app's folder.
fn schema(settings: &mut Settings<'_>) -> Option<Arc<dyn Rules>> {
    let text = settings.text("ORDER_SCHEMA")?;
    let file = Path::new(text);
    if !file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return settings.problem(format!("ORDER_SCHEMA is {text:?}: set the path of a file below the app's folder"), None);
    }
    match Schema::load(&settings.app_root().join(file)) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(problem) => settings.problem(format!("ORDER_SCHEMA is {text:?}, which cannot be used: {problem}"), None),
    }
}

fn pointer(settings: &mut Settings<'_>, name: &str) -> Option<Pointer> {
    let text = settings.text(name).unwrap_or(catalogue::default(name));
    if text == NONE {
        return None;
    }
    let pointer = Pointer::parse(text);
    if pointer.is_none() {
        settings.problems.push(format!("{name} is {text:?}: set a JSON pointer such as /job/id, or {NONE} where orders do not have it"));
    }
    pointer
}
